"""Layers that are computed again on the way back: the same gradients, less memory, and nothing counted twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import make_encoder
from episodic_setup import error, make_world
from stopping_setup import PLUGIN, STOPPER
from test_encoder import UNEQUAL, ragged
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

import mtl
from mtl.config import EncoderConfig
from mtl.errors import ConfigError, EncoderError
from mtl.model.encoder import load_encoder
from mtl_plugins.anil import ANIL
from mtl_plugins.fomaml import FOMAML
from mtl_plugins.maml import MAML

FIRST_ORDER = {"steps": 3, "rate": 0.5, "clip": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four layers, with dropout."""
    return make_encoder(tmp_path_factory.mktemp("four"), layers=4)


def load(folder, checkpointing, **values):
    config = EncoderConfig(name=str(folder), checkpointing=checkpointing, **values)
    return load_encoder(config, Path(folder)).train()


def gradients(encoder, inputs, seed=0):
    torch.manual_seed(seed)
    encoder.zero_grad(set_to_none=True)
    encoder(inputs).pooled.pow(3).sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("freeze", ["none", "embeddings", 2])
@pytest.mark.parametrize("lengths", [[9, 4, 6], UNEQUAL])  # the second is encoded in groups
def test_gradients_are_those_without_it(folder, dropout, freeze, lengths):
    plain, again = (load(folder, on, dropout=dropout, freeze=freeze) for on in (False, True))
    inputs = ragged(lengths)
    expected, found = gradients(plain, inputs), gradients(again, inputs)
    assert expected
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(torch.rand(3), [gradients(plain, inputs), torch.rand(3)][1])  # the generator goes on alike


def test_gradients_in_bfloat16_are_those_without_it(folder):
    # The fused kernel is left out of passes in bfloat16 on a CPU; it must be left out the second time too.
    plain, again = (load(folder, on, dropout=0.0, precision="bf16") for on in (False, True))
    assert_close(gradients(again, ragged([9, 4, 6])), gradients(plain, ragged([9, 4, 6])), rtol=0, atol=1e-6)


def test_gradients_are_those_without_it_where_frozen_states_are_kept(folder, tmp_path):
    found = []
    for on in (False, True):
        encoder = load(folder, on, dropout=0.3, freeze=2)
        encoder.keep_frozen(tmp_path, 2**24)
        found.append([gradients(encoder, ragged([9, 4, 6])) for _ in range(2)][-1])  # the second time they are read
    assert found[0]
    assert_close(found[1], found[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["Roberta", "Electra", "DistilBert", "ModernBert"])
def test_other_architectures_have_the_same_gradients(architecture):
    from test_encoder import small

    from mtl.model.encoder import Encoder

    found = []
    for on in (False, True):
        encoder = Encoder(small(architecture).backbone, None, "mean", checkpointing=on).train()
        found.append(gradients(encoder, ragged([9, 4, 6])))
    assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_an_architecture_that_cannot_is_an_error():
    from test_encoder import small

    from mtl.model.encoder import Encoder

    with pytest.raises(EncoderError, match=r"encoder\.checkpointing: transformers cannot compute a MPNetLayer again"):
        Encoder(small("MPNet").backbone, None, "mean", checkpointing=True)


def saved_bytes(encoder, inputs):
    """Bytes of what a pass keeps for the way back, each storage once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        held = encoder(inputs).pooled
    assert held.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)


def test_a_pass_keeps_little_more_than_the_layers_inputs(folder):
    inputs = ragged([32] * 8)
    plain, again = (saved_bytes(load(folder, on, dropout=0.0), inputs) for on in (False, True))
    states = 8 * 32 * 32 * 4  # sequences × tokens × hidden × bytes
    # Of each of four layers its input; the embeddings' sum and norm, and the masks beside.
    assert again <= 4 * states + 4 * states
    # A layer keeps its queries, keys, values, attention, two norms and twice the hidden size in between, at least.
    assert plain >= 4 * 8 * states


def test_a_copy_computes_its_own_layers_again(folder):
    encoder = load(folder, True, dropout=0.0)
    copy = encoder.copy().train()
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(1.5)
    plain = load(folder, False, dropout=0.0)
    plain.load_state_dict(copy.state_dict())
    assert_close(gradients(copy, ragged([9, 4])), gradients(plain, ragged([9, 4])), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("strategy", "dropout"), [(FOMAML, False), (FOMAML, True), (ANIL, False)])
def test_inner_loops_without_second_derivatives_of_the_encoder_have_the_same_gradients(encoder_folder, strategy, dropout):
    # The way back comes after the adapted parameters have been taken out again; with the encoder's own it would be wrong.
    found = []
    for on in (False, True):
        world = make_world(encoder_folder, checkpointing=on)
        own = world.prepared(strategy(**FIRST_ORDER, dropout=dropout))
        assert not own.second_order
        found.append(world.gradients(own, world.episode()))
    assert error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_second_derivatives_are_refused_where_they_are_taken(encoder_folder, memory):
    world = make_world(encoder_folder, checkpointing=True)
    strategy = world.prepared(MAML(**FIRST_ORDER, dropout=True, memory=memory))
    with pytest.raises(EncoderError, match="takes second derivatives through the encoder, which would be wrong"):
        world.gradients(strategy, world.episode())


@pytest.mark.parametrize(
    ("strategy", "refused"),
    [("maml", True), ("meta-sgd", True), ("protomaml", True), ("kfo", True), ("imaml", True), ("anil", False)]
    + [(name, False) for name in ("fomaml", "reptile", "protonet", "r2d2", "joint", {"name": "maml", "adapt": "head"})],
)
def test_strategies_with_second_derivatives_are_refused_before_anything_is_read(experiment_values, strategy, refused):
    values = {**experiment_values, "tasks": experiment_values["tasks"][:2], "strategy": strategy}
    values["encoder"] |= {"checkpointing": True}
    experiment = mtl.Experiment.of(**values)
    if refused:
        with pytest.raises(ConfigError, match=r"encoder\.checkpointing: strategy '.*' takes second derivatives"):
            experiment.cells()
    else:
        experiment.cells()


def run(values, folder, *, checkpointing, **changes):
    encoder = {**values["encoder"], "checkpointing": checkpointing, "dropout": 0.2}
    values = {**values, **changes, "encoder": encoder, "output": str(folder), "checkpoint": {"every_seconds": 0}}
    return mtl.Experiment.of(**values, plugins=[PLUGIN])


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_gives_the_same_bytes_with_and_without_it_and_when_it_is_resumed(experiment_values, tmp_path, monkeypatch, mixed):
    batch = {"size": 8, "mixed": mixed}
    plain = run(experiment_values, tmp_path / "plain", checkpointing=False, batch=batch)
    again = run(experiment_values, tmp_path / "again", checkpointing=True, batch=batch)
    assert plain.config.hash == again.config.hash
    stopped = run(experiment_values, tmp_path / "stopped", checkpointing=True, batch=batch)
    monkeypatch.setattr(STOPPER, "stop_at", 7)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    monkeypatch.setattr(STOPPER, "stop_at", 0)
    expected, *others = (experiment.run().folder for experiment in (plain, again, stopped))
    for folder in others:
        # Results have the passes through the encoder: layers that are computed again are not learned from twice.
        for name in ("results.json", "models/joint/log.jsonl", "models/joint/encoder/model.safetensors"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    assert json.loads((expected / "results.json").read_text())["models"]["joint"]["passes"] > 0
