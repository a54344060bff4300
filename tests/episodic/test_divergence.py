"""An inner loop that goes astray stops the run, says of which episode it was, and costs no step before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rating_rows, splits
from episodic_setup import make_world

import mtl
from mtl.config import EpisodesConfig
from mtl.data.episodes import EpisodeRows
from mtl.errors import TrainingError
from mtl.meta.inner import Trace
from mtl.model.inference import TaskData
from mtl.training.checkpoint import load_checkpoint
from mtl.transfer.space import Space
from mtl_plugins.fomaml import FOMAML
from mtl_plugins.imaml import IMAML
from mtl_plugins.maml import MAML
from mtl_plugins.meta_sgd import MetaSGD
from mtl_plugins.reptile import Reptile


class Poison:
    """Makes the answers of one step's episodes no numbers, until it is taken away."""

    def __init__(self) -> None:
        self.step, self.made = 0, 0

    @mtl.hookimpl
    def mtl_batch_ready(self, batch):
        if self.made == self.step - 1:
            for part in batch.parts.values():
                part.columns["label"].fill_(float("nan"))

    @mtl.hookimpl
    def mtl_step_end(self, step):
        self.made = step


POISON = Poison()
COMPARED = ("results.json", "models/*/log.jsonl", "models/*/bundle.json", "models/*/encoder/*")


@pytest.fixture
def poison(monkeypatch):
    monkeypatch.setattr(POISON, "made", 0)
    monkeypatch.setattr(POISON, "step", 0)
    return POISON


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for pattern in COMPARED for path in folder.glob(pattern)}


@pytest.mark.parametrize("strategy", ["maml", "imaml"])
def test_a_run_stopped_by_its_inner_loop_goes_on_from_the_step_before(
    experiment_values, write_experiment, fails, poison, tmp_path, strategy
):
    values = experiment_values | {
        "tasks": [{"name": "rating", "kind": "regression", "data": splits(rating_rows(48))}],
        "strategy": {"name": strategy, "steps": 2, "adapt": 1},
        "episodes": {"shots": 4, "queries": 4, "per_step": 2},
        "budget": {"examples_per_task": 80},  # five steps of two episodes of 8 rows
        "evaluation": {"times": 0},
        "checkpoint": {"every_seconds": 0},
        "plugins": [f"{__name__}:POISON"],
    }
    poison.step = 4
    path = write_experiment(values)
    named = "The inner loop of an episode of task 'rating' (4 support rows) diverges: support loss nan"
    fails("run", path, pieces=(named, "Lower strategy.rate", "What was saved before is kept"))
    (folder,) = (tmp_path / "runs" / "quick").iterdir()
    assert not (folder / "results.json").exists()
    kept = sorted((folder / "models" / "joint" / "checkpoints").iterdir())
    assert [one.name for one in kept] == ["step-000000002.safetensors", "step-000000003.safetensors"]
    state = load_checkpoint(kept[0].parent)
    assert state["progress"]["step"] == 3
    assert all(bool(value.isfinite().all()) for value in state["model"].values())

    poison.step, poison.made = 0, 0
    (stopped,) = mtl.load_experiment(path).run().runs
    assert Path(stopped["folder"]) == folder
    (whole,) = mtl.Experiment.of(**values | {"output": str(tmp_path / "undisturbed")}).run().runs
    expected = contents(Path(whole["folder"]))
    assert {path.name for path in expected} >= {"results.json", "log.jsonl", "model.safetensors"}
    assert contents(folder) == expected


def make_rating(folder):
    world = make_world(folder, tasks=["rating"])
    return world, world.episode("rating", ways=None, shots=6, queries=6)


ASTRAY = r"inner loop of an episode of task 'rating' \(6 support rows\) diverges: support loss (\S+, )+\S+e\+\d+\. Lower"


# A head of zeros gives 0, whose squared error is about 1; a step of a rate of 100 leads to about the square of 100.
@pytest.mark.parametrize(
    "strategy",
    [
        MAML(steps=1, rate=100.0, clip=None),
        MAML(steps=1, rate=100.0, clip=None, backend="learn2learn"),
        MAML(steps=2, rate=100.0, clip=None, multi_step=1.0),
        FOMAML(steps=1, rate=100.0, clip=None),
        MetaSGD(steps=1, rate=100.0, clip=None),
        IMAML(steps=1, rate=100.0, clip=None),
        Reptile(steps=1, rate=100.0, clip=None),
    ],
    ids=["maml", "learn2learn", "maml of all steps", "fomaml", "meta-sgd", "imaml", "reptile"],
)
def test_a_last_step_that_leads_astray_is_an_error_that_names_the_episode(encoder_folder, strategy):
    world, episode = make_rating(encoder_folder)
    with pytest.raises(TrainingError, match=ASTRAY):
        world.prepared(strategy).fill_gradients(world.model, [episode])


@pytest.mark.parametrize("backend", ["mtl", "learn2learn"])
def test_an_inner_loop_that_diverges_on_the_way_is_stopped_before_the_queries_are_read(encoder_folder, backend):
    world, episode = make_rating(encoder_folder)
    strategy = world.prepared(MAML(steps=3, rate=100.0, clip=None, backend=backend))
    unread = replace(episode, query=None)
    with pytest.raises(TrainingError, match=r"diverges: support loss (\S+, ){2}\S+e\+\d+\. Lower"):  # before each of three steps
        strategy.episode_loss(strategy._readers["rating"], unread)


@pytest.mark.parametrize("backend", ["mtl", "learn2learn"])
def test_queries_far_from_a_support_that_is_learned_well_are_no_divergence(encoder_folder, backend):
    world, episode = make_rating(encoder_folder)
    strategy = world.prepared(MAML(steps=1, backend=backend))
    (part,) = episode.query.parts.values()
    far = replace(part, columns={**part.columns, "label": part.columns["label"] + 100})
    far_query = replace(episode.query, parts={"rating": far})
    report = strategy.fill_gradients(world.model, [replace(episode, query=far_query)])
    assert 0.5 * 100**2 < float(report.losses["rating"]) < 2 * 100**2


def test_queries_are_looked_at_without_another_pass_of_the_support(encoder_folder):
    world, episode = make_rating(encoder_folder)
    strategy, passes = world.prepared(FOMAML(steps=2)), []
    world.encoder.layers()[0].intermediate.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    strategy.fill_gradients(world.model, [episode])
    assert passes == [6, 6, 6]  # two steps, and the queries


@pytest.mark.parametrize(("rate", "found"), [(100.0, r"\S+e\+\d+"), (1e30, "inf|nan")])
def test_an_adaptation_that_its_last_step_leads_astray_is_an_error_that_names_the_episode(encoder_folder, rate, found):
    world = make_world(encoder_folder, dtype=torch.float32, tasks=["rating"])
    strategy, features = world.prepared(MAML(steps=1, rate=rate, clip=None)), world.features["rating"]
    space = Space(world.encoder, TaskData("rating", world.kinds["rating"], {"train": features}), features)
    episode = EpisodeRows("rating", (), tuple(range(6)), tuple(range(6, 12)))
    with pytest.raises(TrainingError, match=rf"task 'rating' \(6 support rows\) diverges: support loss \S+, ({found})\. Lower"):
        strategy.adaptation(EpisodesConfig()).adapt(space, episode)


def test_the_losses_before_every_step_are_told(encoder_folder):
    world, episode = make_rating(encoder_folder)
    strategy, trace = world.prepared(MAML(steps=3)), Trace()
    list(strategy.unroll(strategy._readers["rating"], episode, "first", trace=trace))
    assert len(trace.losses) == 3
