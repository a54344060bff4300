"""Compiled passes: the same names, gradients and counts; passes in parts are not compiled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_encoder import UNEQUAL, ragged
from torch.testing import assert_close

import mtl
import mtl.model.compiling as module
from mtl.config import EncoderConfig
from mtl.errors import ConfigError, EncoderError
from mtl.model.encoder import load_encoder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Trace forth and back, but leave the kernels to PyTorch."""
    monkeypatch.setattr(module, "_BACKEND", "aot_eager")
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def load(folder, **values):
    return load_encoder(EncoderConfig(name=str(folder), dropout=0.0, **values), Path(folder)).train()


def gradients(encoder, inputs):
    encoder.zero_grad(set_to_none=True)
    encoded = encoder(inputs)
    if encoder.mixing:
        encoded = encoded.mixed(lambda layers: layers)
    encoded.pooled.pow(3).sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("mix", [False, True])
def test_names_and_gradients_are_those_of_the_plain_encoder(encoder_folder, monkeypatch, mix):
    calls = []
    monkeypatch.setattr(module, "_BACKEND", lambda graph, inputs: calls.append(graph) or graph.forward)
    plain, compiled = load(encoder_folder, mix=mix), load(encoder_folder, mix=mix)
    compiled.compile_passes()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for lengths in ([9, 4, 6], [5, 5, 2, 7], UNEQUAL):
        assert_close(gradients(compiled, ragged(lengths)), gradients(plain, ragged(lengths)), rtol=0, atol=1e-5)
    assert calls  # it was compiled
    assert len(calls) <= 3  # and not for every shape


def test_passes_in_parts_are_those_of_the_plain_encoder(encoder_folder):
    plain, compiled, inputs = load(encoder_folder), load(encoder_folder), ragged([9, 4, 6])
    compiled.compile_passes()
    for depth in (0, 1, 2):
        compiled(inputs)
        expected = plain(inputs, plain.trunk(inputs, depth), depth).pooled
        assert_close(compiled(inputs, compiled.trunk(inputs, depth), depth).pooled, expected, rtol=0, atol=1e-6)
    assert_close(compiled.copy()(inputs).pooled, plain(inputs).pooled, rtol=0, atol=1e-6)


def test_a_run_is_that_of_the_plain_encoder(experiment_values, tmp_path):
    found = []
    for on in (False, True):
        encoder = {**experiment_values["encoder"], "compile": on, "dropout": 0.0}
        values = {**experiment_values, "encoder": encoder, "output": str(tmp_path / str(on)), "budget": {"epochs": 1}}
        folder = mtl.Experiment.of(**values).run().folder
        results = json.loads((folder / "results.json").read_text())
        found.append((results["models"], load_file(folder / "models/joint/encoder/model.safetensors")))
        assert mtl.load_bundle(folder).predict(["the cat is good"])
    # The passes are counted, although hooks inside of what is compiled are not called.
    assert found[1][0] == found[0][0]
    assert found[0][0]["joint"]["passes"] > 0
    assert_close(found[1][1], found[0][1], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy": "maml"}, "takes second derivatives, which torch.compile does not have"),
        ({"strategy": "protonet"}, "learns from episodes"),
        ({"encoder": {"cache": 1, "freeze": 1}}, r"does not go with encoder\.cache"),
        ({"encoder": {"checkpointing": True}}, r"does not go with encoder\.checkpointing"),
    ],
)
def test_what_cannot_be_compiled_is_refused(experiment_values, changes, told):
    encoder = {**experiment_values["encoder"], "compile": True, **changes.get("encoder", {})}
    values = {**experiment_values, **changes, "encoder": encoder, "tasks": experiment_values["tasks"][:1]}
    with pytest.raises(ConfigError, match=rf"encoder\.compile.*{told}"):
        mtl.Experiment.of(**values).cells()


def test_a_compiler_that_fails_is_an_error_with_a_way_out(encoder_folder, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("there is no g++")

    monkeypatch.setattr(module, "_BACKEND", broken)
    encoder = load(encoder_folder)
    encoder.compile_passes()
    with pytest.raises(EncoderError, match=r"encoder\.compile: the encoder cannot be compiled .* set encoder\.compile to false"):
        encoder(ragged([4, 3]))
