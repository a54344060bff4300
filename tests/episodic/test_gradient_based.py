"""Gradients through inner loops agree with learn2learn's, with closed forms and with loops written here."""

from __future__ import annotations

import pytest
import torch
from conftest import sentiment_rows, splits
from episodic_setup import error, gradients_of, labels_of, make_world, plain_features, plain_loss, plain_maml
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

import mtl
from mtl.data.rows import Rows
from mtl.errors import ConfigError, TrainingError
from mtl.meta.reference import load_learn2learn
from mtl.model.multitask import MultiTaskModel
from mtl.task import Task
from mtl_plugins.anil import ANIL
from mtl_plugins.fomaml import FOMAML
from mtl_plugins.imaml import IMAML
from mtl_plugins.kfo import KFO
from mtl_plugins.maml import MAML
from mtl_plugins.meta_sgd import MetaSGD
from mtl_plugins.protomaml import ProtoMAML
from mtl_plugins.reptile import Reptile
from mtl_tasks.multilabel import MultiLabel

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
BOTH = pytest.mark.parametrize("memory", ["store", "recompute"])


class Above(nn.Module):
    """The layers of a BERT and a head: what learn2learn adapts."""

    def __init__(self, encoder, ways):
        super().__init__()
        self.layers = encoder.backbone.encoder
        self.head = nn.Linear(encoder.hidden, ways)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states, mask):
        bias = torch.zeros_like(mask, dtype=states.dtype).masked_fill(mask == 0, torch.finfo(states.dtype).min)
        states = self.layers(states, attention_mask=bias[:, None, None, :]).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return self.head(10.0 * normalize((states * weights).sum(1) / weights.sum(1), dim=-1))


def by_learn2learn(world, episode, *, steps, rate, first_order=False):
    """The meta-gradient of layers and embeddings by learn2learn's MAML."""
    encoder = world.encoder
    learner = load_learn2learn().algorithms.MAML(
        Above(encoder, len(episode.classes)).to(world.dtype), lr=rate, first_order=first_order
    )

    def loss(model, batch):
        states = encoder.backbone.embeddings(batch.inputs["input_ids"], batch.inputs["token_type_ids"])
        outputs = model(states, batch.inputs["attention_mask"])
        return cross_entropy(outputs, labels_of(batch, episode))

    clone = learner.clone()
    for _ in range(steps):
        clone.adapt(loss(clone, episode.support))
    return gradients_of(loss(clone, episode.query), encoder.named_parameters())


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_meta_gradient_is_that_of_learn2learn(encoder_folder, steps, dtype, memory):
    world = make_world(encoder_folder, dtype=dtype)
    other = make_world(encoder_folder, dtype=dtype, attention="eager")
    episode = world.episode()
    strategy = world.prepared(MAML(steps=steps, rate=0.05, layer_norms=True, memory=memory, clip=None))
    expected = by_learn2learn(other, episode, steps=steps, rate=0.05)
    assert error(world.gradients(strategy, episode), expected) <= TOLERANCE[dtype]
    first = by_learn2learn(other, episode, steps=steps, rate=0.05, first_order=True)
    assert error(first, expected) > 0.01  # what is compared is not the first-order gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_first_order_gradient_is_that_of_learn2learn(encoder_folder, steps, dtype):
    world = make_world(encoder_folder, dtype=dtype)
    other = make_world(encoder_folder, dtype=dtype, attention="eager")
    episode = world.episode()
    strategy = world.prepared(FOMAML(steps=steps, rate=0.05, layer_norms=True, clip=None))
    expected = by_learn2learn(other, episode, steps=steps, rate=0.05, first_order=True)
    assert error(world.gradients(strategy, episode), expected) <= TOLERANCE[dtype]


def test_the_first_order_gradient_of_what_is_below_is_that_of_the_queries_alone(encoder_folder):
    world = make_world(encoder_folder)
    episode = world.episode()
    strategy = world.prepared(FOMAML(steps=3, rate=0.05, clip=None))
    found = world.gradients(strategy, episode)
    *_, theta = strategy.unroll(strategy._readers["topic"], episode, "first")
    # With the adapted parameters held still, embeddings and LayerNorms have the gradient of a plain query loss.
    theta = {name: value.detach() for name, value in theta.items()}
    loss = strategy._readers["topic"].loss(
        strategy.answerer(strategy._readers["topic"], theta)(episode.query), episode.query, episode.outputs
    )
    below = {name: p for name, p in world.encoder.named_parameters() if name not in strategy.adapted}
    expected = gradients_of(loss, below)
    assert error({name: found[name] for name in expected}, expected) <= 1e-6


@BOTH
@pytest.mark.parametrize("options", [{}, {"adapt": 1}, {"adapt": "norms-and-biases"}, {"embeddings": True}, {"adapt": "head"}])
def test_what_is_not_adapted_has_the_whole_gradient_too(encoder_folder, options, memory):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(MAML(steps=3, rate=0.05, memory=memory, clip=None, **options))
    loss = plain_maml(other.encoder, strategy.adapted, episode, steps=3, rate=0.05)
    expected = gradients_of(loss, other.encoder.named_parameters())
    assert any("LayerNorm" in name for name in expected)
    assert any("embeddings" in name for name in expected)
    assert error(world.gradients(strategy, episode), expected) <= 1e-6


def test_anil_differentiates_through_the_inner_loop_of_the_head(encoder_folder):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(ANIL(steps=4, rate=0.1, clip=None))
    loss = plain_maml(other.encoder, [], episode, steps=4, rate=0.1)
    assert error(world.gradients(strategy, episode), gradients_of(loss, other.encoder.named_parameters())) <= 1e-6


@BOTH
def test_the_head_can_have_an_inner_rate_of_its_own(encoder_folder, memory):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(MAML(steps=3, rate=0.02, head_rate=0.2, memory=memory, clip=None))

    def rate_of(name, step):
        return 0.2 if name.startswith("head") else 0.02

    loss = plain_maml(other.encoder, strategy.adapted, episode, steps=3, rate=None, rate_of=rate_of)
    assert error(world.gradients(strategy, episode), gradients_of(loss, other.encoder.named_parameters())) <= 1e-6


def layer(name):
    return name.partition("layer.")[2][:1] or "head"


@BOTH
def test_learned_rates_of_layers_and_steps_have_the_gradient_of_a_plain_loop(encoder_folder, memory):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(MetaSGD(steps=3, rate=0.05, memory=memory, clip=None))
    rates = {name: torch.full((3,), 0.05, dtype=torch.float64, requires_grad=True) for name in ("0", "1", "head")}
    loss = plain_maml(
        other.encoder, strategy.adapted, episode, steps=3, rate=None, rate_of=lambda name, step: rates[layer(name)][step]
    )
    expected = gradients_of(loss, {**dict(other.encoder.named_parameters()), **rates})
    found = world.gradients(strategy, episode)
    found = {layer(name.replace("/", ".")) if name.startswith("rate:") else name: value for name, value in found.items()}
    assert error(found, expected) <= 1e-6
    # The head starts at zeros, so that the first step moves it alone.
    assert [name for name in rates if expected[name][0] == 0] == ["0", "1"]
    assert all(bool((expected[name][1:] != 0).all()) for name in rates)


@BOTH
def test_learned_rates_of_elements_have_the_gradient_of_a_plain_loop(encoder_folder, memory):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(MetaSGD(steps=2, rate=0.05, rates="element", adapt=1, memory=memory, clip=None))
    rates = {
        name: torch.full_like(strategy.adapted[name], 0.05) if name in strategy.adapted else torch.tensor(0.05).double()
        for name in (*strategy.adapted, "head.weight", "head.bias")
    }
    for rate in rates.values():
        rate.requires_grad_()
    loss = plain_maml(other.encoder, strategy.adapted, episode, steps=2, rate=None, rate_of=lambda name, step: rates[name])
    expected = gradients_of(loss, {f"rate:{name}": rate for name, rate in rates.items()})
    found = world.gradients(strategy, episode)
    found = {name.replace("/", "."): value.reshape(expected[name.replace("/", ".")].shape)
             for name, value in found.items() if name.startswith("rate:")}  # fmt: skip
    assert error(found, expected) <= 1e-6


@BOTH
def test_a_learned_head_has_the_gradient_of_a_plain_loop(encoder_folder, memory):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(MAML(steps=2, rate=0.05, head="learned", memory=memory, clip=None))
    (own,) = strategy._learned.values()
    torch.manual_seed(0)
    own.data.normal_(std=0.1)
    start = own.detach().clone().requires_grad_()
    head = start[:-1].expand(3, -1), start[-1:].expand(3)
    loss = plain_maml(other.encoder, strategy.adapted, episode, steps=2, rate=0.05, head=head)
    expected = gradients_of(loss, {**dict(other.encoder.named_parameters()), "start:classification:32": start})
    assert error(world.gradients(strategy, episode), expected) <= 1e-6


@BOTH
def test_protomaml_keeps_the_graph_from_the_prototypes_to_the_encoder(encoder_folder, memory):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    strategy = world.prepared(ProtoMAML(steps=3, rate=0.02, memory=memory, clip=None))
    features = plain_features(other.encoder, {}, episode.support)
    places = labels_of(episode.support, episode)
    means = torch.stack([features[places == way].mean(0) for way in range(3)])
    head = 2 * means, -10.0 * means.pow(2).sum(-1)  # 10 · (2 p · x − ‖p‖²)
    loss = plain_maml(other.encoder, strategy.adapted, episode, steps=3, rate=0.02, head=head)
    expected = gradients_of(loss, other.encoder.named_parameters())
    assert error(world.gradients(strategy, episode), expected) <= 1e-6


def test_protomaml_adapts_alike_with_and_without_second_derivatives(encoder_folder):
    world = make_world(encoder_folder)
    strategy = world.prepared(ProtoMAML(steps=2, rate=0.02))
    ends = {}
    for order in ("first", "store", "recompute"):
        *_, ends[order] = strategy.unroll(strategy._readers["topic"], world.episode(), order)
    assert error(ends["first"], ends["recompute"]) < 1e-9
    assert error(ends["store"], ends["recompute"]) < 1e-9


def test_reptile_s_gradient_is_start_minus_end(encoder_folder):
    world, other = make_world(encoder_folder), make_world(encoder_folder)
    episode = world.episode()
    strategy = world.prepared(Reptile(steps=3, rate=0.05, clip=None))
    found = world.gradients(strategy, episode)
    theta = {name: dict(other.encoder.named_parameters())[name] for name in strategy.adapted}
    start = {name: value.detach().clone() for name, value in theta.items()}
    head = nn.Linear(32, 3).double()
    head.weight.data.zero_(), head.bias.data.zero_()
    optimizer = torch.optim.SGD([*theta.values(), *head.parameters()], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        outputs = head(10.0 * plain_features(other.encoder, {}, episode.support))
        cross_entropy(outputs, labels_of(episode.support, episode)).backward()
        optimizer.step()
    assert error(found, {name: start[name] - theta[name].detach() for name in start}) <= 1e-6


def test_imaml_solves_with_the_hessian_of_the_support_loss(encoder_folder):
    world, other = make_world(encoder_folder), make_world(encoder_folder, attention="eager")
    episode = world.episode()
    options = {"adapt": "norms-and-biases", "steps": 8, "rate": 0.01, "pull": 20.0, "clip": None}
    strategy = world.prepared(IMAML(**options, solver_steps=60))
    found = world.gradients(strategy, episode)
    *_, end = strategy.unroll(strategy._readers["topic"], episode, "first")
    # (I + H/λ)⁻¹ ∇L, with H as a matrix, by a solver for matrices.
    sizes = [value.numel() for value in end.values()]

    def loss_at(flat, batch):
        own = {name: part.view_as(end[name]) for name, part in zip(end, flat.split(sizes), strict=True)}
        return plain_loss(other.encoder, own, batch, episode, 10.0)

    flat = torch.cat([value.detach().flatten() for value in end.values()]).requires_grad_()
    (slope,) = torch.autograd.grad(loss_at(flat, episode.query), flat)
    (own,) = torch.autograd.grad(loss_at(flat, episode.support), flat, create_graph=True)
    hessian = torch.func.vmap(lambda v: torch.autograd.grad(own, flat, v, retain_graph=True)[0])(torch.eye(len(flat)).double())
    solution = torch.linalg.solve(torch.eye(len(flat)).double() + hessian / 20.0, slope)
    expected = {name: part for name, part in zip(end, solution.split(sizes), strict=True) if name in strategy.adapted}
    # Conjugate gradients stop at a squared residual of 1e-10 of all together; small tensors are less exact.
    assert error({name: found[name].flatten() for name in expected}, expected) <= 3e-4
    assert float((solution - slope).norm() / slope.norm()) > 0.01  # the Hessian has a say


def test_imaml_s_gradient_on_a_quadratic_is_that_of_its_closed_form():
    torch.manual_seed(0)
    root, b, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((6, 6), (6,), (6,)))
    a, pull = root @ root.T / 6, 2.0
    start = {"w": torch.randn(6, dtype=torch.float64, requires_grad=True)}
    # Where wᵀAw/2 − bᵀw with the pull towards the start is least, as a function of the start.
    end = torch.linalg.solve(a + pull * torch.eye(6, dtype=torch.float64), b + pull * start["w"])
    (expected,) = torch.autograd.grad((end - c).pow(2).sum() / 2, start["w"])
    ends = {"w": end.detach().requires_grad_()}
    value = (ends["w"] - c).pow(2).sum() / 2

    def plain(adapted):
        return adapted["w"] @ a @ adapted["w"] / 2 - b @ adapted["w"]

    loss = IMAML(pull=pull, solver_steps=20)._implicit(plain, value, start, ends)
    loss.backward()
    assert loss.item() == pytest.approx(value.item())
    assert float((start["w"].grad - expected).norm() / expected.norm()) <= 1e-6


@pytest.mark.parametrize("strategy", [Reptile, IMAML])
def test_rates_cannot_be_learned_where_the_way_is_not_differentiated(encoder_folder, strategy):
    with pytest.raises(ConfigError, match="rates cannot be learned here"):
        strategy(rates="layer").prepare(make_world(encoder_folder).model)
    with pytest.raises(ConfigError, match="multi_step has queries answered on the inner loop's way"):
        strategy(multi_step=0.5).prepare(make_world(encoder_folder).model)


def test_reptile_without_anything_to_learn_is_refused(encoder_folder):
    with pytest.raises(ConfigError, match="strategy 'reptile' learns where the inner loop starts, .*nothing is left to learn"):
        Reptile(adapt="head").prepare(make_world(encoder_folder).model)
    world = make_world(encoder_folder)
    found = world.gradients(world.prepared(Reptile(adapt="head", head="learned")), world.episode())
    assert list(found) == ["start:classification:32"]


@pytest.mark.parametrize("strategy", ["fomaml", "reptile", "imaml"])
def test_first_order_at_first_is_refused_where_it_is_so_at_all_times(encoder_folder, strategy):
    rows = splits(sentiment_rows(32))
    values = {"encoder": str(encoder_folder), "tasks": [{"name": "mood", "kind": "classification", "data": rows}]}
    with pytest.raises(ConfigError, match=f"strategy.first_order_until: '{strategy}' takes no second derivatives at any time"):
        mtl.Experiment.of(**values, strategy={"name": strategy, "first_order_until": 0.5}).cells()


def test_a_learned_start_is_of_a_kind_and_a_size_and_zeros_stand_in_where_none_was_trained(encoder_folder):
    world = make_world(encoder_folder, tasks=["topic", "rating"])
    strategy = world.prepared(MAML(head="learned"))
    assert set(strategy._learned) == {"start:classification:32", "start:regression:32"}
    strategy._learned["start:regression:32"].data.fill_(0.5)
    reader, episode = strategy._readers["rating"], world.episode("rating", ways=None)
    assert bool((strategy.start(reader, episode).weight == 0.5).all())
    del strategy._learned["start:regression:32"]
    assert not bool(strategy.start(reader, episode).weight.any())
    strategy.load_state_dict(
        {"progress": 1.0, "learned": {"start:regression": torch.full((33,), 0.25)}}
    )  # as it was once written
    assert bool((strategy.start(reader, episode).weight == 0.25).all())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_gives_the_gradient_of_storing_with_the_same_dropout(encoder_folder, dropout):
    found = {}
    for memory in ("store", "recompute"):
        world = make_world(encoder_folder, dropout=dropout)
        strategy = world.prepared(MAML(steps=3, rate=0.05, dropout=True, memory=memory, adapt=1))
        torch.manual_seed(7)
        found[memory] = world.gradients(strategy, world.episode())
    assert error(found["recompute"], found["store"]) <= 1e-9


def test_dropout_acts_in_the_inner_loop_only_if_it_is_wanted(encoder_folder):
    ends = []
    for dropout, seed in ((True, 0), (True, 1), (False, 0), (False, 1)):
        world = make_world(encoder_folder, dropout=0.3)
        strategy = world.prepared(MAML(steps=1, dropout=dropout))
        torch.manual_seed(seed)
        *_, end = strategy.unroll(strategy._readers["topic"], world.episode(), "first")
        ends.append(end["head.weight"].detach())
        assert world.encoder.training
    assert not torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])


@pytest.mark.filterwarnings("ignore:.*checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_of_transformers_is_wrong_under_an_inner_loop_and_recompute_is_right(encoder_folder):
    other = make_world(encoder_folder, attention="eager")
    episode = other.episode()
    names = [name for name, _ in other.encoder.named_parameters() if "encoder.layer" in name and "LayerNorm" not in name]
    named = dict(other.encoder.named_parameters())
    right = gradients_of(plain_maml(other.encoder, names, episode, steps=3, rate=0.5), named)
    world = make_world(encoder_folder)
    strategy = world.prepared(MAML(steps=3, rate=0.5, memory="recompute", clip=None))
    assert error(world.gradients(strategy, episode), right) <= 1e-6
    other.encoder.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    # A layer is run again after functional_call has put the parameters back from which the inner loop started.
    wrong = gradients_of(plain_maml(other.encoder, names, episode, steps=3, rate=0.5), named)
    assert error(wrong, right) > 1e-3


def test_an_unused_pooler_breaks_a_gradient_by_all_parameters_and_is_not_loaded(encoder_folder, tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig.from_pretrained(encoder_folder), add_pooling_layer=True)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path)
    world = make_world(tmp_path, dtype=torch.float32)
    episode = world.episode()
    states = model(**episode.support.inputs).last_hidden_state
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(states.sum(), list(model.parameters()))
    assert not [name for name, _ in world.encoder.named_parameters() if "pooler" in name]
    strategy = world.prepared(MAML(steps=1, embeddings=True, layer_norms=True))
    assert len(strategy.adapted) == len(list(world.encoder.parameters()))
    assert len(world.gradients(strategy, episode)) == len(strategy.adapted)


def tie(world):
    """Let both layers of the encoder have the same weights in their first matrix."""
    first, second = world.encoder.layers()
    second.intermediate.dense.weight = first.intermediate.dense.weight
    return world


@BOTH
def test_tied_weights_stay_tied_in_the_inner_loop(encoder_folder, memory):
    world, other = (tie(make_world(encoder_folder, attention=attention)) for attention in ("sdpa", "eager"))
    episode = world.episode()
    strategy = world.prepared(MAML(steps=3, rate=0.05, memory=memory, clip=None))
    assert len([name for name in strategy.adapted if name.endswith("intermediate.dense.weight")]) == 1
    loss = plain_maml(other.encoder, strategy.adapted, episode, steps=3, rate=0.05)
    assert error(world.gradients(strategy, episode), gradients_of(loss, other.encoder.named_parameters())) <= 1e-6


def test_the_gradient_of_a_tied_weight_is_the_sum_of_those_of_its_places(encoder_folder):
    tied, untied = tie(make_world(encoder_folder)), make_world(encoder_folder)
    first, second = untied.encoder.layers()
    second.intermediate.dense.weight.data.copy_(first.intermediate.dense.weight.data)
    moved = {}
    for which, world in (("tied", tied), ("untied", untied)):
        strategy = world.prepared(MAML(steps=2, rate=0.05, clip=None))
        # The head starts at zeros, so that the first step moves it alone; the second moves the encoder.
        *_, end = strategy.unroll(strategy._readers["topic"], world.episode(), "first")
        start = strategy.adapted
        moved[which] = {
            n.split("layer.")[1]: (end[n] - start[n]).detach() for n in end if n.endswith("intermediate.dense.weight")
        }
    (one,) = moved["tied"].values()
    assert error({"": one}, {"": sum(moved["untied"].values())}) <= 1e-9


def test_what_is_frozen_is_not_copied_and_has_no_gradient(encoder_folder):
    world = make_world(encoder_folder, freeze=1)
    encoder = world.encoder
    below = {name: p for name, p in encoder.named_parameters() if not p.requires_grad}
    assert len(below) > 10
    places = {name: p.data_ptr() for name, p in below.items()}
    used = []
    lower, upper = encoder.layers()
    lower.register_forward_pre_hook(lambda module, _: used.append(module.intermediate.dense.weight.data_ptr()))
    upper.register_forward_pre_hook(lambda module, _: used.append(module.attention.output.LayerNorm.weight.data_ptr()))
    found = world.gradients(world.prepared(MAML(steps=2, adapt=1)), world.episode())
    own = {lower.intermediate.dense.weight.data_ptr(), upper.attention.output.LayerNorm.weight.data_ptr()}
    assert set(used) == own  # of the adapted layer, the LayerNorm is its own too
    assert not found.keys() & below.keys()
    assert all(p.grad is None and p.data_ptr() == places[name] for name, p in below.items())
    assert {name for name in found if not name.startswith("rate")} == dict(encoder.named_parameters()).keys() - below.keys()


@pytest.mark.parametrize("strategy", [MAML, FOMAML, ANIL, MetaSGD, ProtoMAML, KFO, Reptile, IMAML])
def test_the_layers_below_the_adapted_are_run_once_for_the_support_and_once_for_the_queries(encoder_folder, strategy):
    world = make_world(encoder_folder)
    episode = world.episode(shots=2, queries=3)
    rows = []
    world.encoder.layers()[0].intermediate.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    options = {} if strategy is ANIL else {"adapt": 1}
    world.gradients(world.prepared(strategy(steps=3, rate=0.02, **options)), episode)
    assert sorted(rows) == [6, 9]


class Saved:
    """Counts the tensors that are kept for a backward pass, now and at most."""

    def __init__(self):
        self.alive = self.most = 0

    def pack(self, tensor):
        counter = self

        class Kept:
            def __init__(self):
                self.tensor = tensor
                counter.alive += 1
                counter.most = max(counter.most, counter.alive)

            def __del__(self):
                counter.alive -= 1

        return Kept()


def most_saved(folder, memory, steps):
    world = make_world(folder, dtype=torch.float32)
    strategy, saved = world.prepared(MAML(steps=steps, memory=memory)), Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
        loss = strategy.episode_loss(strategy._readers["topic"], world.episode())
    assert loss.requires_grad
    return saved.most


def test_recomputing_keeps_no_graph_of_the_steps(encoder_folder):
    growth = {
        memory: (most_saved(encoder_folder, memory, 6) - most_saved(encoder_folder, memory, 2)) / 4
        for memory in ("store", "recompute")
    }
    # A step keeps its inputs: two layers have 16 tensors each, embeddings 5; a head has two, and there are the states.
    assert growth["recompute"] <= 2 * 16 + 5 + 2 + 1
    assert growth["store"] > 5 * growth["recompute"]


def test_first_order_keeps_no_graph_of_the_steps_at_all(encoder_folder):
    world = make_world(encoder_folder, dtype=torch.float32)
    counts = []
    for steps in (2, 6):
        strategy, saved = world.prepared(FOMAML(steps=steps, clip=None)), Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
            loss = strategy.episode_loss(strategy._readers["topic"], world.episode())
            counts.append(saved.alive)
        del loss
    assert counts[0] == counts[1]


def test_multi_step_losses_are_weighted_from_all_steps_alike_to_the_last(encoder_folder):
    world = make_world(encoder_folder)
    strategy, episode = world.prepared(MAML(steps=4, multi_step=0.5)), world.episode()
    reader = strategy._readers["topic"]
    steps = [
        reader.loss(strategy.answerer(reader, theta)(episode.query), episode.query, episode.outputs).item()
        for theta in strategy.unroll(reader, episode, "first")
    ]
    for progress, weights in ((0.0, [0.25] * 4), (0.25, [0.125] * 3 + [0.625]), (0.5, [0, 0, 0, 1])):
        strategy.end_step(None, progress)
        expected = sum(weight * loss for weight, loss in zip(weights, steps, strict=True))
        assert strategy.episode_loss(reader, episode).item() == pytest.approx(expected, rel=1e-9)


def test_first_order_until_takes_first_order_gradients_until_then(encoder_folder):
    world = make_world(encoder_folder)
    episode = world.episode()
    first = world.gradients(world.prepared(FOMAML(steps=2)), episode)
    strategy = world.prepared(MAML(steps=2, first_order_until=0.3))
    assert error(world.gradients(strategy, episode), first) < 1e-12
    strategy.end_step(None, 0.3)
    assert error(world.gradients(strategy, episode), first) > 1e-3


@pytest.mark.parametrize("strategy", [MAML, FOMAML, ANIL, MetaSGD, ProtoMAML, Reptile, IMAML])
@pytest.mark.parametrize("task", ["topic", "places"])
def test_every_strategy_has_finite_gradients_for_a_part_of_the_classes(encoder_folder, task, strategy):
    world = make_world(encoder_folder, dtype=torch.float32, tasks=[task])
    episode = world.episode(task, ways=2)
    assert len(episode.outputs) < len(world.kinds[task].labels)
    found = world.gradients(world.prepared(strategy(steps=2)), episode)
    assert found
    assert all(bool(value.isfinite().all()) for value in found.values())


@pytest.mark.parametrize("strategy", [MAML, ANIL, Reptile, IMAML, MetaSGD, KFO])
def test_regression_is_learned_in_episodes_too(encoder_folder, strategy):
    world = make_world(encoder_folder, tasks=["rating"])
    found = world.gradients(world.prepared(strategy(steps=2, rate=0.01)), world.episode("rating", ways=None, shots=6, queries=6))
    assert found
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_an_inner_loop_that_diverges_is_an_error_that_names_the_task(encoder_folder):
    world = make_world(encoder_folder, tasks=["rating"])
    strategy = world.prepared(MAML(steps=5, rate=10.0, clip=None))
    with pytest.raises(TrainingError, match=r"inner loop of an episode of task 'rating' \(6 support rows\) diverges: .*Lower"):
        strategy.episode_loss(strategy._readers["rating"], world.episode("rating", ways=None, shots=6, queries=6))
    strategy = world.prepared(MAML(steps=5, head_rate=1000.0, clip=None))
    with pytest.raises(TrainingError, match=r"Lower strategy.rate .*, strategy.head_rate \(now 1000\) or strategy.clip"):
        strategy.episode_loss(strategy._readers["rating"], world.episode("rating", ways=None, shots=6, queries=6))


def test_a_support_loss_that_is_no_number_is_an_error_that_names_task_and_classes(encoder_folder, monkeypatch):
    world = make_world(encoder_folder)
    monkeypatch.setattr(world.kinds["topic"], "loss", lambda outputs, batch: outputs[:, 0].sum() * float("nan"))
    strategy, episode = world.prepared(MAML(steps=2)), world.episode()
    names = ", ".join(world.kinds["topic"].labels[number] for number in episode.classes)
    with pytest.raises(TrainingError, match=rf"task 'topic' \(6 support rows, classes {names}\) diverges: support loss nan"):
        strategy.fill_gradients(world.model, [episode])


@pytest.mark.parametrize(("freeze", "adapt"), [("all", "all"), (1, "all"), (2, 1), ("all", "norms-and-biases")])
def test_what_is_frozen_cannot_be_adapted(encoder_folder, freeze, adapt):
    with pytest.raises(ConfigError, match=r"adapts \d+ parameters that encoder\.freeze keeps from being trained, 'backbone"):
        MAML(adapt=adapt).prepare(make_world(encoder_folder, freeze=freeze).model)


def test_a_kind_without_episodes_is_refused(encoder_folder):
    world = make_world(encoder_folder)
    kind = MultiLabel(Task(name="tags", kind="multilabel", data=[]))
    kind.fit(Rows({"text": ["a cat", "a dog"], "label": [["x"], ["y"]]}, "tags", range(1, 3), "tags"))
    model = MultiTaskModel(world.encoder, {"tags": kind}, lambda name: 0)
    with pytest.raises(ConfigError, match=r"Task 'tags' is of kind 'multilabel', which cannot be learned in episodes"):
        MAML().prepare(model)


def test_the_gradient_of_several_episodes_is_their_mean(encoder_folder):
    world = make_world(encoder_folder)
    strategy = world.prepared(MAML(steps=1))
    episodes = [world.episode(seed=seed) for seed in range(3)]
    alone = [world.gradients(strategy, episode) for episode in episodes]
    world.model.zero_grad(set_to_none=True)
    report = strategy.fill_gradients(world.model, episodes)
    found = {name: p.grad for name, p in world.encoder.named_parameters()}
    assert error(found, {name: sum(one[name] for one in alone) / 3 for name in found}) < 1e-12
    assert report.weights == {"topic": 1.0}


def test_the_sums_over_episodes_are_there_from_the_first_on(encoder_folder, monkeypatch):
    world = make_world(encoder_folder)
    strategy = world.prepared(MAML(steps=1))
    seen = []
    whole = MAML.episode_loss
    monkeypatch.setattr(
        MAML,
        "episode_loss",
        lambda self, *given: seen.append({name for name, p in self.adapted.items() if p.grad is not None}) or whole(self, *given),
    )
    strategy.fill_gradients(world.model, [world.episode(seed=seed) for seed in range(2)])
    assert seen[0] == seen[1] == set(strategy.adapted) != set()


@BOTH
def test_the_first_step_from_a_head_of_zeros_has_the_gradient_of_a_whole_step_for_less(encoder_folder, memory):
    found, work = [], []
    for head in ("zeros", "learned"):  # a learned one starts at zeros, and has a step of everything
        world = make_world(encoder_folder, freeze="embeddings")
        strategy = world.prepared(MAML(steps=3, rate=0.05, clip=None, memory=memory, head=head))
        with FlopCounterMode(display=False) as counter:
            gradients = world.gradients(strategy, world.episode(shots=3, queries=2))
        found.append({name: value for name, value in gradients.items() if not name.startswith("start:")})
        work.append(counter.get_total_flops())
    assert error(*found) < 1e-10
    assert work[0] < 0.9 * work[1]
