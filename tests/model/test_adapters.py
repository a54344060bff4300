"""Adapters: what is trained, whose rows go where, and what is the same after saving and merging."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import pytest
import torch
from conftest import rating_rows, sentiment_rows
from torch import nn
from torch.testing import assert_close

import mtl
from mtl.config import Choice, EncoderConfig
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.errors import BundleError, ConfigError, EncoderError, MissingExtraError, PluginError, UnknownNameError
from mtl.model.bundle import Bundle, load_bundle
from mtl.model.encoder import load_encoder
from mtl.model.export import export, merged
from mtl.model.multitask import MultiTaskModel
from mtl.model.origin import Origin, hash_of
from mtl.plugins import load_plugins
from mtl.task import Task
from mtl_plugins.adalora import AdaLoRA
from mtl_plugins.bottleneck import BottleneckAdapter
from mtl_plugins.branch import Branching
from mtl_plugins.dora import DoRA
from mtl_plugins.ia3 import IA3
from mtl_plugins.joint import Joint
from mtl_plugins.lora import LoRA
from mtl_plugins.prefix import PrefixTuning
from mtl_plugins.task_embedding import TaskEmbedding
from mtl_tasks.classification import Classification
from mtl_tasks.regression import Regression

pytest.importorskip("peft", reason="needs the extra lora")

LINEAR = {"adalora": AdaLoRA, "lora": LoRA, "dora": DoRA, "ia3": IA3}  # merge
SHARED = {**LINEAR, "bottleneck": BottleneckAdapter, "prefix": PrefixTuning}
OWN = {"branch": Branching, "task-embedding": TaskEmbedding}  # of each task, or of none
METHODS = {**SHARED, **OWN}
WAYS = [(name, False) for name in SHARED] + [(name, True) for name in METHODS]


def rows_of(rows):
    return Rows({key: [row[key] for row in rows] for key in rows[0]}, "given", range(1, len(rows) + 1))


GIVEN = {"mood": rows_of(sentiment_rows(8)), "rating": rows_of(rating_rows(8)), "more": rows_of(sentiment_rows(12))}
KINDS = {"mood": Classification, "rating": Regression, "more": Classification}


def kinds():
    found = {name: kind(Task(name=name, kind=name, data=[])) for name, kind in KINDS.items()}
    for name, kind in found.items():
        kind.fit(GIVEN[name])
    return found


class World:
    """A model with adapters, and features of its tasks."""

    def __init__(self, folder, method, *, freeze="all", names=tuple(KINDS), **values):
        config = EncoderConfig(name=str(folder), max_length=32, freeze=freeze, dropout=0.0, **values)
        self.config, self.encoder = config, load_encoder(config, folder, attention="sdpa")
        if method is not None:
            self.encoder.put(method)
        self.kinds = {name: kind for name, kind in kinds().items() if name in names}
        self.model = MultiTaskModel(self.encoder, self.kinds, lambda name: sum(name.encode())).eval()
        self.features = {name: featurize(self.kinds[name], GIVEN[name], self.encoder.tokenizer) for name in self.kinds}

    def batch(self, **rows):
        return collate(rows, self.features, self.kinds)

    def losses(self, batch):
        outputs = self.model(batch)
        return {name: self.model.loss(name, output, batch) for name, output in outputs.items()}

    def learn(self, steps=3, rate=0.05):
        """Move adapters and heads away from their start."""
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=rate)
        for _ in range(steps):
            batch = self.batch(**{name: range(4) for name in self.kinds})
            optimizer.zero_grad()
            torch.autograd.backward(sum(self.losses(batch).values()))
            optimizer.step()
        optimizer.zero_grad()
        return self


def made(name, **options):
    return METHODS[name](**options)


@pytest.mark.parametrize(("name", "per_task"), [way for way in WAYS if way[0] != "prefix"])
def test_adapters_change_nothing_until_they_are_trained(name, per_task, encoder_folder):
    plain, adapted = World(encoder_folder, None), World(encoder_folder, made(name, per_task=per_task))
    batch = plain.batch(mood=range(4), rating=range(4))
    assert_close(adapted.model(batch), plain.model(batch), rtol=0, atol=1e-6)
    adapted.learn()
    assert not torch.allclose(adapted.model(batch)["mood"], plain.model(batch)["mood"], atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_but_adapters_and_heads_is_trained_on_a_frozen_encoder(name, encoder_folder):
    world = World(encoder_folder, made(name))
    before = {key: value.clone() for key, value in world.encoder.state_dict().items()}
    own = world.encoder.adapter_names()
    trained = {key for key, p in world.encoder.named_parameters() if p.requires_grad}
    assert trained == own
    assert sum(p.numel() for key, p in world.encoder.named_parameters() if key in own) > 0
    world.learn()
    moved = {key for key, value in world.encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert moved <= own


def test_what_is_not_frozen_is_trained_along(encoder_folder):
    world = World(encoder_folder, LoRA(), freeze=1)
    frozen = {key for key, p in world.encoder.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(("embeddings" in key or "layer.0." in key) and "lora" not in key for key in frozen)


def test_the_number_of_weights_of_lora_is_that_of_the_paper(encoder_folder):
    world = World(encoder_folder, LoRA(rank=2))
    # Query and value of 2 layers, 32 × 32: each A of 2 × 32 and B of 32 × 2.
    assert sum(p.numel() for p in world.encoder.parameters() if p.requires_grad) == 2 * 2 * (2 * 32 + 32 * 2)


def test_the_number_of_weights_of_bottlenecks_is_that_of_the_paper(encoder_folder):
    world = World(encoder_folder, BottleneckAdapter(rank=4))
    # Section 2.1: 2md + d + m for each of the two adapters of a layer, with d = 32 and m = 4.
    assert sum(p.numel() for p in world.encoder.parameters() if p.requires_grad) == 2 * 2 * (2 * 4 * 32 + 32 + 4)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "mtl"])
def test_a_prefix_is_attended_to_beside_the_text(attention, encoder_folder):
    config = EncoderConfig(name=str(encoder_folder), max_length=32, dropout=0.0)
    chosen = None if attention == "mtl" else attention
    plain, encoder = (load_encoder(config, encoder_folder, attention=chosen).double().eval() for _ in range(2))
    encoder.put(PrefixTuning(length=3, modules=("layer.0.attention.self",)))
    encoder.double()
    lone, part = plain.layers()[0].attention.self, encoder.layers()[0].attention.self
    states = torch.randn(4, 6, 32, dtype=torch.float64)
    lengths = torch.tensor([6, 4, 2, 1])
    seen = (torch.arange(6) < lengths[:, None])[:, None, None]
    mask = seen if attention != "eager" else torch.where(seen, 0.0, -torch.inf).double()
    found = part(states, attention_mask=mask)[0]
    heads = [linear(states).view(4, 6, lone.num_attention_heads, -1) for linear in (lone.query, lone.key, lone.value)]
    for row, length in enumerate(lengths):
        for head in range(lone.num_attention_heads):  # equation 3: the keys are [prefix; text]
            query, key, value = (states[row, :, head] for states in heads)
            size = query.shape[-1]
            own = [states[:, head * size : (head + 1) * size] for states in (part.keys, part.values)]
            weights = (query @ torch.cat([own[0], key[:length]]).T / size**0.5).softmax(-1)
            expected = weights @ torch.cat([own[1], value[:length]])
            assert_close(found[row, :, head * size : (head + 1) * size], expected, rtol=0, atol=1e-12)


def test_the_number_of_weights_of_a_prefix(encoder_folder):
    world = World(encoder_folder, PrefixTuning(length=5))
    # 2 layers, each with 5 keys and 5 values of 32.
    assert sum(p.numel() for p in world.encoder.parameters() if p.requires_grad) == 2 * 2 * 5 * 32


def test_branches_are_whole_layers_and_the_shared_ones_above_the_fork_are_out_of_use(encoder_folder):
    world = World(encoder_folder, Branching(layers=1), freeze="none", names=("mood", "rating"))
    plain = load_encoder(world.config, encoder_folder)
    layer = sum(p.numel() for p in plain.layers()[1].parameters())
    named = dict(world.encoder.named_parameters())
    assert sum(named[key].numel() for key in world.encoder.adapter_names("mood")) == layer
    shared = sum(p.numel() for p in world.model.encoder.shared().values())
    assert shared == sum(p.numel() for p in plain.parameters()) - layer
    world.model.zero_grad()
    torch.autograd.backward(sum(world.losses(world.batch(mood=range(3), rating=range(3))).values()))
    assert all(p.grad is not None for p in world.encoder.parameters() if p.requires_grad)


def test_a_task_embedding_is_one_vector_a_task(encoder_folder):
    world = World(encoder_folder, TaskEmbedding())
    assert sum(p.numel() for p in world.encoder.parameters() if p.requires_grad) == len(KINDS) * 32


@pytest.mark.parametrize("name", OWN)
def test_what_is_each_tasks_own_cannot_be_for_all(name, encoder_folder):
    with pytest.raises(ValueError, match="per_task is always true"):
        OWN[name](per_task=False)


def test_more_branching_layers_than_there_are_is_an_error(encoder_folder):
    with pytest.raises(EncoderError, match=r"encoder\.adapter\.layers is 3, but the encoder has 2 layers"):
        World(encoder_folder, Branching(layers=3))


def test_layers_that_run_are_counted_through_branches(encoder_folder):
    world, seen = World(encoder_folder, Branching()), []
    for module in world.encoder.counted():
        module.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    world.model(world.batch(mood=range(4), rating=range(3)))
    assert seen == [7, 7]


@pytest.mark.parametrize("name", METHODS)
def test_adapters_of_absent_tasks_have_no_gradient(name, encoder_folder):
    world = World(encoder_folder, made(name, per_task=True)).learn()
    torch.autograd.backward(sum(world.losses(world.batch(mood=range(3), more=range(2))).values()))
    named = dict(world.encoder.named_parameters())
    for task, present in (("mood", True), ("more", True), ("rating", False)):
        own = [named[key] for key in world.encoder.adapter_names(task) if named[key].requires_grad]
        assert own
        assert all((p.grad is not None) == present for p in own)
    assert all(p.grad is None for key, p in named.items() if key not in world.encoder.adapter_names())


@pytest.mark.parametrize("name", METHODS)
def test_an_answer_does_not_depend_on_rows_of_other_tasks(name, encoder_folder):
    world = World(encoder_folder, made(name, per_task=True)).learn()
    world.model.double()
    alone = {task: world.model(world.batch(**{task: range(6)}))[task] for task in world.kinds}
    together = world.model(world.batch(mood=range(6), more=range(6), rating=range(6)))
    assert_close(together, {task: alone[task] for task in together}, rtol=0, atol=1e-12)


def test_the_tasks_have_different_adapters_for_the_same_text(encoder_folder):
    # 'mood' and 'more' begin with the same texts, which one batch has once.
    world = World(encoder_folder, LoRA(per_task=True)).learn()
    batch = world.batch(mood=range(4), more=range(4))
    assert len(batch.inputs["input_ids"]) == 4
    encoded = world.model.encode(batch)
    assert not torch.allclose(encoded["mood"].pooled, encoded["more"].pooled, atol=1e-3)


def test_rows_of_very_different_lengths_go_through_their_own_adapters(encoder_folder):
    world = World(encoder_folder, LoRA(per_task=True)).learn()
    world.model.double()
    texts = ["good", "the cat sat on the mat and ran to paris from london very very fine " * 2]
    rows = rows_of([{"text": f"{texts[number % 2]} {number}", "label": "good"} for number in range(24)])
    for task in ("mood", "more"):
        world.features[task] = featurize(world.kinds[task], rows, world.encoder.tokenizer)
    together = world.model(world.batch(mood=range(24), more=range(24)))  # is parted by length
    for task in ("mood", "more"):
        single = torch.cat([world.model(world.batch(**{task: [row]}))[task] for row in range(24)])
        assert_close(together[task], single, rtol=0, atol=1e-12)


def test_gradients_of_a_mixed_batch_are_those_of_the_tasks_alone(encoder_folder):
    world = World(encoder_folder, LoRA(per_task=True)).learn()
    world.model.double()

    def gradients(*names):
        world.model.zero_grad()
        torch.autograd.backward(sum(world.losses(world.batch(**{name: range(5) for name in names})).values()))
        return {key: p.grad.clone() for key, p in world.model.named_parameters() if p.grad is not None}

    apart = gradients("mood") | gradients("rating")
    assert_close(gradients("mood", "rating"), apart, rtol=0, atol=1e-12)


def test_the_frozen_weights_run_once_for_all_tasks_of_a_batch(encoder_folder):
    world = World(encoder_folder, LoRA(per_task=True))
    seen = []
    world.encoder.layers()[0].register_forward_hook(lambda *arguments: seen.append(1))
    world.model(world.batch(mood=range(2), rating=range(2), more=range(4, 6)))  # too few to be parted by length
    assert len(seen) == 1


def test_a_bottleneck_is_not_drawn_to_its_start_and_ia3_not_to_nothing(encoder_folder):
    for name, decayed in (("ia3", False), ("lora", True)):
        world = World(encoder_folder, made(name))
        groups = world.model.parameter_groups(1e-3, 1e-2, 0.1)
        own = {id(p) for key, p in world.encoder.named_parameters() if key in world.encoder.adapter_names()}
        found = {group["weight_decay"] for group in groups for p in group["params"] if id(p) in own}
        assert found == ({0.1} if decayed else {0.0})


def test_without_a_task_there_is_no_way_through_adapters_of_each(encoder_folder):
    world = World(encoder_folder, LoRA(per_task=True))
    with pytest.raises(EncoderError, match="these texts are of none of its tasks"):
        world.encoder(world.batch(mood=range(2)).inputs)


def test_balanced_strategies_leave_adapters_of_one_task_to_it(encoder_folder):
    world = World(encoder_folder, LoRA(per_task=True), freeze="none")
    own = world.encoder.adapter_names()
    assert own.isdisjoint(world.model.encoder.shared())
    assert {id(p) for p in world.model.own("mood")}.isdisjoint({id(p) for p in world.model.own("rating")})
    assert len(world.model.own("mood")) == 2 + len(world.encoder.adapter_names("mood"))  # weight and bias of the head


# --- on disk ---------------------------------------------------------------------------------------------------------------


class Registers:
    """Registers the tiny encoder."""

    def __init__(self, folder):
        self.folder = folder

    @mtl.hookimpl
    def mtl_register_encoders(self, register):
        register("tiny", lambda: self.folder)


def plugins_with(folder):
    plugins = load_plugins()
    if folder is not None:
        plugins.add("tiny-encoder", "a test", lambda: Registers(folder))
    return plugins


def bundle_of(folder, name, *, registered=True, names=("mood", "rating"), **options):
    """A trained bundle with adapters."""
    freeze = options.pop("freeze", "all")
    method = METHODS[name](**options)
    world = World(folder, method, freeze=freeze, names=names)
    if registered:
        world.encoder.origin = Origin("tiny", hash_of(world.encoder))
    world.learn()
    for task, kind in (("mood", "classification"), ("rating", "regression"), ("more", "classification")):
        if task in world.kinds:
            world.kinds[task].task = Task(name=task, kind=kind, data=[])
    config = world.config.model_copy(update={"adapter": Choice(name=name, **options)})
    return Bundle(world.model, config, {"classification": "mtl_tasks", "regression": "mtl_tasks"})


TEXTS = [row["text"] for row in [*sentiment_rows(6), *rating_rows(4)]]


@pytest.mark.parametrize(("name", "per_task"), WAYS)
def test_a_bundle_answers_as_before_and_holds_no_encoder(name, per_task, encoder_folder, tmp_path):
    bundle = bundle_of(encoder_folder, name, per_task=per_task)
    bundle.save(tmp_path)
    assert [path.name for path in (tmp_path / "encoder").iterdir()] == ["adapters.safetensors"]
    again = load_bundle(tmp_path, plugins=plugins_with(encoder_folder))
    assert again.predict(TEXTS) == bundle.predict(TEXTS)
    assert again.fingerprint == bundle.fingerprint
    again.save(tmp_path / "again")
    first, second = (folder / "encoder" / "adapters.safetensors" for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("per_task", [False, True])
def test_predicting_with_all_heads_is_predicting_with_each(per_task, encoder_folder):
    bundle = bundle_of(encoder_folder, "lora", per_task=per_task)
    bundle.model.double()
    together = bundle.predict(TEXTS)
    assert set(together[0]) == {"mood", "rating"}
    for task in together[0]:
        assert all(answer[task] == whole[task] for answer, whole in zip(bundle.predict(TEXTS, [task]), together, strict=True))


@pytest.mark.parametrize("changes", [{"registered": False}, {"freeze": "none"}], ids=["not registered", "trained"])
def test_an_encoder_that_nobody_else_has_is_in_the_bundle(changes, encoder_folder, tmp_path):
    bundle = bundle_of(encoder_folder, "lora", **changes)
    bundle.save(tmp_path)
    assert (tmp_path / "encoder" / "model.safetensors").is_file()
    assert load_bundle(tmp_path).predict(TEXTS) == bundle.predict(TEXTS)


def test_an_encoder_that_is_not_registered_here_is_named(encoder_folder, tmp_path):
    bundle_of(encoder_folder, "lora").save(tmp_path)
    with pytest.raises(BundleError, match=r"adapters only: it stands on the encoder 'tiny', which no plugin registers"):
        load_bundle(tmp_path)


def test_an_encoder_of_other_weights_is_refused(encoder_folder, tmp_path):
    bundle_of(encoder_folder, "lora").save(tmp_path / "bundle")
    other = load_encoder(EncoderConfig(name="other", max_length=32), encoder_folder)
    with torch.no_grad():
        next(other.backbone.parameters())[0, 0] += 1e-4
    other.save(tmp_path / "other")
    with pytest.raises(BundleError, match=r"'tiny' with sha256 \w{16}…, but that in .*other has \w{16}…: it is not the one"):
        load_bundle(tmp_path / "bundle", plugins=plugins_with(tmp_path / "other"))


def test_adapters_of_another_rank_are_refused(encoder_folder, tmp_path):
    bundle_of(encoder_folder, "lora", rank=4).save(tmp_path)
    about = json.loads((tmp_path / "bundle.json").read_text())
    about["encoder"]["adapter"]["rank"] = 2
    (tmp_path / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(EncoderError, match=r"adapters\.safetensors does not fit the adapters"):
        load_bundle(tmp_path, plugins=plugins_with(encoder_folder))


@pytest.mark.parametrize("name", LINEAR)
def test_merged_answers_are_those_of_the_adapters(name, encoder_folder, tmp_path):
    bundle = bundle_of(encoder_folder, name)
    export(bundle, tmp_path)
    again = load_bundle(tmp_path)  # nothing is registered here
    assert again.config.adapter is None
    assert again.model.encoder.adapters is None
    assert again.model.encoder.state_dict().keys() == World(encoder_folder, None).encoder.state_dict().keys()
    before, after = bundle.embed(TEXTS), again.embed(TEXTS)
    assert abs(before - after).max() <= 1e-6 * abs(before).max()
    for before, after in zip(bundle.predict(TEXTS), again.predict(TEXTS), strict=True):
        assert after["rating"]["value"] == pytest.approx(before["rating"]["value"], abs=1e-5)


def test_merging_leaves_the_bundle_as_it_was(encoder_folder):
    bundle = bundle_of(encoder_folder, "lora")
    before = bundle.predict(TEXTS)
    merged(bundle)
    assert bundle.predict(TEXTS) == before


@pytest.mark.parametrize("task", ["mood", "rating"])
@pytest.mark.parametrize("name", ["lora", *OWN])
def test_one_task_of_several_with_their_own_adapters_is_merged(name, task, encoder_folder, tmp_path):
    bundle = bundle_of(encoder_folder, name, per_task=True)
    export(bundle, tmp_path, task)
    again = load_bundle(tmp_path)
    assert list(again.tasks) == [task]
    difference = abs(again.embed(TEXTS) - bundle.embed(TEXTS, task)).max()
    assert difference <= 1e-6 * abs(bundle.embed(TEXTS, task)).max()


def test_several_tasks_with_their_own_adapters_are_not_merged_into_one(encoder_folder):
    with pytest.raises(ConfigError, match=r"'mood', 'rating' has adapters of its own.*Name one task \(--task\)"):
        merged(bundle_of(encoder_folder, "lora", per_task=True))


@pytest.mark.parametrize(("name", "method"), [("bottleneck", "BottleneckAdapter"), ("prefix", "PrefixTuning")])
def test_what_is_not_linear_cannot_be_merged_but_exported_whole(name, method, encoder_folder, tmp_path):
    bundle = bundle_of(encoder_folder, name)
    with pytest.raises(ConfigError, match=f"{method} cannot be merged"):
        export(bundle, tmp_path)
    export(bundle, tmp_path, merge=False)
    assert load_bundle(tmp_path).predict(TEXTS) == bundle.predict(TEXTS)


def test_embedding_with_adapters_of_each_task_needs_a_task(encoder_folder):
    bundle = bundle_of(encoder_folder, "lora", per_task=True)
    with pytest.raises(EncoderError, match="Name a task"):
        bundle.embed(TEXTS)
    with pytest.raises(UnknownNameError, match="Unknown task 'moood'"):
        bundle.embed(TEXTS, "moood")
    assert abs(bundle.embed(TEXTS, "mood") - bundle.embed(TEXTS, "rating")).max() > 1e-3


# --- what can be wrong -----------------------------------------------------------------------------------------------------


def test_without_peft_the_extra_is_named(encoder_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"'peft' is needed here.*mtl\[lora\]"):
        World(encoder_folder, LoRA())


def test_bottlenecks_need_no_peft(encoder_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    World(encoder_folder, BottleneckAdapter())


@pytest.mark.parametrize("name", METHODS)
def test_parts_that_are_not_there_are_named(name, encoder_folder):
    with pytest.raises(EncoderError, match=r"encoder\.adapter: .*encoder\.adapter\.modules"):
        World(encoder_folder, made(name, modules=("qwery",)))


class Strange(nn.Module):
    """An architecture that nobody knows."""

    config = type("Config", (), {"model_type": "strange", "to_dict": lambda self: {"model_type": "strange"}})()

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)


@pytest.mark.parametrize("name", METHODS)
def test_an_architecture_that_is_not_known_is_named_with_the_way_out(name):
    with pytest.raises(EncoderError, match=r"Strange.*encoder\.adapter\.modules"):
        made(name).put(Strange())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "prefix"])  # that goes into attentions alone
def test_the_way_out_of_an_architecture_that_is_not_known(name):
    made(name, modules=("mix",)).put(strange := Strange())
    assert not isinstance(strange.mix, nn.Linear)


def test_an_attention_without_room_for_a_prefix_is_said():
    from transformers import DistilBertConfig, DistilBertModel

    backbone = DistilBertModel(DistilBertConfig(vocab_size=50, dim=32, hidden_dim=64, n_layers=1, n_heads=2))
    with pytest.raises(EncoderError, match="no attention of a DistilBertModel that takes a prefix"):
        PrefixTuning().put(backbone)


def test_a_method_that_throws_the_old_part_away_is_refused(encoder_folder):
    @dataclass
    class Careless(mtl.Adapter):
        def put(self, backbone):
            backbone.encoder.layer[0].output.dense = nn.Linear(64, 32)

    with pytest.raises(PluginError, match=r"Careless has put a module at encoder\.layer\.0\.output\.dense without the one"):
        World(encoder_folder, Careless())


def test_joint_training_moves_only_the_adapters_of_tasks_with_rows(encoder_folder):
    world = World(encoder_folder, LoRA(per_task=True)).learn()
    strategy = Joint()
    strategy.setup([mtl.training.weighting.TaskLoss(name, 1.0, 1.0) for name in world.kinds], _build)
    before = {key: value.clone() for key, value in world.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(world.model.parameters(), lr=0.1, weight_decay=0.1)
    strategy.fill_gradients(world.model, [world.batch(mood=range(4))])
    optimizer.step()
    moved = {key for key, value in world.encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert moved <= world.encoder.adapter_names("mood")


def _build(what, choice):
    from mtl.components import Builder

    return Builder(load_plugins())(what, choice)


@pytest.mark.parametrize("per_task", [False, True])
def test_what_leaves_the_layers_below_all_adapters_is_kept(per_task, encoder_folder, tmp_path):
    world = World(encoder_folder, LoRA(per_task=per_task, modules=("layer.1.attention.self.query",))).learn()
    batch = world.batch(mood=range(4), rating=range(4))
    before = world.model(batch)
    world.encoder.keep_frozen(tmp_path, 2**24)
    assert world.encoder.frozen_depth == 1
    assert_close(world.model(batch), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_task", [False, True])
def test_nothing_is_kept_where_adapters_are_in_the_first_layer(per_task, encoder_folder, tmp_path):
    with pytest.raises(EncoderError, match=r"encoder\.cache keeps what leaves frozen layers.*adapters"):
        World(encoder_folder, LoRA(per_task=per_task)).encoder.keep_frozen(tmp_path, 2**24)


@pytest.mark.parametrize(
    ("method", "depth"), [(LoRA(per_task=True, modules=("layer.1.attention.self.query",)), 1), (Branching(layers=1), 1)]
)
def test_layers_below_those_of_each_task_are_kept_before_the_tasks_are_known(method, depth, encoder_folder, tmp_path):
    """A run keeps states before it makes the heads, and with them the adapters."""
    encoder = load_encoder(EncoderConfig(name=str(encoder_folder), freeze="all"), encoder_folder)
    encoder.put(method)
    encoder.keep_frozen(tmp_path, 2**24)
    assert encoder.frozen_depth == depth


def test_a_prefix_of_each_task_learns_from_rows_of_one_length(encoder_folder, tmp_path):
    rows = [{"text": f"the {word} sat", "label": label} for word, label in (("cat", "good"), ("dog", "bad"))] * 8
    tasks = [
        {"name": name, "kind": "classification", "data": dict.fromkeys(("train", "validation", "test"), rows)}
        for name in ("mood", "other")
    ]
    values = {"encoder": {"name": str(encoder_folder), "freeze": "all", "adapter": {"name": "prefix", "per_task": True}}}
    finished = mtl.Experiment.of(**values, tasks=tasks, budget={"epochs": 1}, threads=1, output=str(tmp_path)).run()
    model = finished.runs[0]["results"]["models"]["joint"]
    assert 0 < model["passes"] <= model["examples"]  # no row is padded; a text of both tasks goes through once
