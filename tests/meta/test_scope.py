"""What an inner loop adapts."""

from __future__ import annotations

import pytest
from conftest import make_encoder
from episodic_setup import make_world

from mtl.errors import ConfigError
from mtl.meta.scope import scope_of
from mtl_plugins.lora import LoRA

LAYER = {f"attention.self.{which}" for which in ("query", "key", "value")}
LAYER |= {"attention.output.dense", "intermediate.dense", "output.dense"}
NORMS = {"attention.output.LayerNorm", "output.LayerNorm"}


def names(layers, modules, ends=("weight", "bias")):
    return {f"backbone.encoder.layer.{layer}.{module}.{end}" for layer in layers for module in modules for end in ends}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_world(make_encoder(tmp_path_factory.mktemp("three"), hidden=8, layers=3)).encoder


@pytest.mark.parametrize(
    ("adapted", "options", "expected", "depth"),
    [
        ("head", {}, set(), 3),
        (1, {}, names([2], LAYER), 2),
        (2, {}, names([1, 2], LAYER), 1),
        (3, {}, names([0, 1, 2], LAYER), 0),
        ("all", {}, names([0, 1, 2], LAYER), 0),
        (1, {"layer_norms": True}, names([2], LAYER | NORMS), 2),
        ("all", {"layer_norms": True}, names([0, 1, 2], LAYER | NORMS), 0),
        ("norms-and-biases", {}, names([0, 1, 2], LAYER, ["bias"]) | names([0, 1, 2], NORMS), 0),
    ],
)
def test_exactly_these_parameters_are_adapted(encoder, adapted, options, expected, depth):
    scope = scope_of(encoder, adapted, **options)
    assert scope.names == expected
    assert scope.depth == depth


@pytest.mark.parametrize("layer_norms", [False, True])
def test_embeddings_are_adapted_with_all_layers_and_leave_no_trunk(encoder, layer_norms):
    scope = scope_of(encoder, "all", embeddings=True, layer_norms=layer_norms)
    own = {f"backbone.embeddings.{what}_embeddings.weight" for what in ("word", "position", "token_type")}
    norm = {f"backbone.embeddings.LayerNorm.{end}" for end in ("weight", "bias")}
    expected = names(range(3), LAYER | NORMS) | own | norm if layer_norms else names(range(3), LAYER) | own
    assert scope.names == expected
    assert scope.depth == -1


def test_embeddings_are_not_adapted_with_some_layers(encoder):
    assert scope_of(encoder, 2, embeddings=True) == scope_of(encoder, 2)


def test_more_layers_than_there_are_is_an_error(encoder):
    with pytest.raises(ConfigError, match=r"adapt: the last 99 layers are asked for, but the encoder has 3"):
        scope_of(encoder, 99)


@pytest.mark.parametrize(
    ("modules", "depth"), [(("query",), 0), (("layer.2.attention.self.query",), 2), (("word_embeddings",), -1)]
)
def test_below_the_lowest_adapter_is_the_trunk(tmp_path, modules, depth):
    pytest.importorskip("peft", reason="needs the extra lora")
    encoder = make_world(make_encoder(tmp_path, hidden=8, layers=3)).encoder
    encoder.put(LoRA(modules=modules))
    scope = scope_of(encoder, "adapter")
    assert scope.names == encoder.adapter_names()
    assert scope.depth == depth


def test_adapter_without_adapters_is_an_error(encoder):
    with pytest.raises(ConfigError, match=r"adapt: adapter needs adapters"):
        scope_of(encoder, "adapter")
