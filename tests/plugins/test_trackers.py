"""Trackers get configuration, curves, tables and artefacts of a real run; nothing goes to the network."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from conftest import sentiment_rows, splits

import mtl
from mtl.errors import MissingExtraError
from mtl.tracking import Tracker, final_values


@pytest.fixture
def values(encoder_folder, tmp_path):
    """A run of 40 steps with two evaluations."""
    return {
        "name": "tracked",
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))}],
        "budget": {"epochs": 5},
        "batch": {"size": 4},
        "evaluation": {"times": 2},
        "threads": 1,
        "output": str(tmp_path / "runs"),
    }


class Recorder(Tracker):
    """Keeps what it is told."""

    def __init__(self):
        self.calls = []

    def begin(self, run, config):
        self.calls.append(("begin", config))

    def log(self, step, values):
        self.calls.append((step, dict(values)))

    def finish(self, final, folder, failure):
        self.calls.append(("finish", dict(final), failure))


RECORDER = Recorder()


def test_a_tracker_gets_config_losses_metrics_and_results(values):
    RECORDER.calls.clear()
    finished = mtl.Experiment.of(**values, plugins=[f"{__name__}:RECORDER"]).run()
    begin, *logged, finish = RECORDER.calls
    assert begin[1]["name"] == "tracked"
    # 5 epochs of 32 rows in batches of 4 are 40 steps: losses at 20 and 40, and an evaluation at each of the two.
    assert [(step, sorted(found)) for step, found in logged if "joint/loss/mood" in found] == [
        (20, ["joint/loss/mood", "joint/weight/mood"]),
        (40, ["joint/loss/mood", "joint/weight/mood"]),
    ]
    assert [step for step, found in logged if "joint/validation/mood/accuracy" in found] == [20, 40]
    assert finish == ("finish", {"test/mood/accuracy": finished.runs[0]["results"]["tasks"]["mood"]["value"]}, None)


def test_a_tracker_is_told_of_a_failure(values):
    RECORDER.calls.clear()
    values["optimizer"] = {"learning_rate": 1e30}
    with pytest.raises(mtl.MTLError, match="The loss of task 'mood' is"):
        mtl.Experiment.of(**values, plugins=[f"{__name__}:RECORDER"]).run()
    assert RECORDER.calls[-1][1] == {}
    assert RECORDER.calls[-1][2].startswith("TrainingError: The loss of task 'mood' is")


def test_final_values_are_means_over_episodes():
    targets = {"joint": {"figures": {"bank": {"prototype": {"5": [0.5, 0.7]}}}}}
    tasks = {"mood": {"metric": "accuracy", "value": 0.9}, "odd": {"metric": "spearman", "value": None}}
    assert final_values({"tasks": tasks, "targets": targets}) == {
        "test/mood/accuracy": 0.9,
        "transfer/joint/bank/prototype/5 shots": 0.6,
    }


@pytest.mark.parametrize(
    ("module", "library"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_library_is_named_with_its_extra(values, monkeypatch, module, library):
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"mtl\[{module}\]"):
        mtl.Experiment.of(**values, plugins=[f"mtl_plugins.{module}:TRACKER"]).run()


def test_tensorboard_has_curves_and_tables(values):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finished = mtl.Experiment.of(**values, plugins=["mtl_plugins.tensorboard:TRACKER"]).run()
    events = EventAccumulator(str(finished.folder / "tensorboard"))
    events.Reload()
    assert [each.step for each in events.Scalars("joint/loss/mood")] == [20, 40]
    accuracy = finished.runs[0]["results"]["tasks"]["mood"]["value"]
    assert events.Scalars("test/mood/accuracy")[0].value == pytest.approx(accuracy)
    texts = {name: events.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in events.Tags()["tensors"]}
    assert "Tasks, test split" in texts["results/text_summary"]
    assert '"tracked"' in texts["config/text_summary"]


def test_weights_and_biases_works_offline(values, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    finished = mtl.Experiment.of(**values, plugins=["mtl_plugins.wandb:TRACKER"]).run()
    (kept,) = finished.folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # a process of its own writes it, and may be behind
    while b"results.md" not in (content := kept.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"joint/loss/mood" in content
    assert b"results.md" in content


def test_mlflow_keeps_a_local_file_store(values, monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    finished = mtl.Experiment.of(**values, plugins=["mtl_plugins.mlflow:TRACKER"]).run()
    (loss,) = (tmp_path / "mlruns").glob("*/*/metrics/joint/loss/mood")
    assert [line.split()[2] for line in loss.read_text().splitlines()] == ["20", "40"]
    (tables,) = (tmp_path / "mlruns").glob("*/*/artifacts/results.md")
    assert tables.read_bytes() == (finished.folder / "results.md").read_bytes()
    (config,) = (tmp_path / "mlruns").glob("*/*/artifacts/config.json")
    assert json.loads(Path(config).read_text())["name"] == "tracked"
