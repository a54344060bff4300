"""Whole runs: what lies in the folder, and that the same file and seed give the same bytes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, sentiment_rows, splits

import mtl
from mtl.errors import CheckpointError, ConfigError, PluginError, TrainingError, UnknownNameError
from mtl.model.kept_states import KeptStates

BYTES = (
    "results.json",
    "results.md",
    "models/*/bundle.json",
    "models/*/*.safetensors",
    "models/*/encoder/*",
    "models/*/log.jsonl",
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for pattern in BYTES for path in folder.glob(pattern)}


def test_an_experiment_trains_three_kinds_on_one_encoder(experiment_values):
    finished = mtl.Experiment.of(**experiment_values).run()
    results = finished.runs[0]["results"]
    assert set(results["tasks"]) == {"mood", "rating", "places"}
    written = json.loads((finished.folder / "results.json").read_text())
    assert written == results
    for file in ("config.yaml", "environment.json", "data.json", "results.md", "models/joint/bundle.json"):
        assert (finished.folder / file).is_file(), file
    assert list(Path(finished.folder).glob("plots/**/*.png"))
    # Two epochs of 32 + 24 + 20 rows.
    assert sum(about["examples_seen"] for about in results["tasks"].values()) == 152
    assert results["tasks"]["mood"]["rows"] == {"train": 32, "validation": 16, "test": 16}
    assert results["tasks"]["mood"]["trivial"] == 0.5
    assert set(json.loads((finished.folder / "environment.json").read_text())["packages"]) >= {
        "torch",
        "transformers",
        "datasets",
    }


def test_the_processor_s_time_is_the_run_s_own_whatever_the_process_did_before(experiment_values):
    before = time.process_time()
    finished = mtl.Experiment.of(**experiment_values).run()
    spent = time.process_time() - before
    timing = json.loads((finished.folder / "timing.json").read_text())
    assert before > 1  # imports alone
    assert 0 < timing["process_cpu_seconds"] <= spent + 0.1


def test_the_same_file_and_seed_give_the_same_bytes_here_and_in_another_process(experiment_values, write_experiment, tmp_path):
    # Dropout, mixed batches and a weighting that learns: everything that could differ does something.
    values = {**experiment_values, "strategy": {"name": "joint", "weighting": "random"}, "batch": {"size": 8, "mixed": True}}
    file = write_experiment({**values, "budget": {"epochs": 1}})

    def run_here(*overrides: str) -> dict[str, bytes]:
        return contents(mtl.load_experiment(file, overrides).run().folder)

    first = run_here(f"output={tmp_path}/first")
    assert len(first) >= 8
    assert run_here(f"output={tmp_path}/second") == first
    other = run_here(f"output={tmp_path}/other", "seed=1")
    assert other["models/joint/heads.safetensors"] != first["models/joint/heads.safetensors"]
    assert json.loads(other["results.json"])["tasks"] != json.loads(first["results.json"])["tasks"]
    done = subprocess.run(
        [sys.executable, "-m", "mtl", "run", str(file), "--json", "--output", str(tmp_path / "third")],
        env={**os.environ, "PYTHONHASHSEED": "99"},
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=600,
    )
    printed = json.loads(done.stdout)
    assert contents(Path(printed["folder"])) == first
    assert printed["runs"][0]["results"] == json.loads(first["results.json"])


def test_single_task_training_sees_the_same_examples_as_joint_training(experiment_values):
    values = {**experiment_values, "tasks": experiment_values["tasks"][:2], "budget": {"epochs": 1}}
    finished = mtl.Experiment.of(**values, compare={"strategy": ["single", "joint"]}).run()
    single, joint = (run["results"] for run in finished.runs)
    assert {name: about["examples_seen"] for name, about in single["tasks"].items()} == {
        name: about["examples_seen"] for name, about in joint["tasks"].items()
    }
    assert set(single["models"]) == {"mood", "rating"}
    assert set(joint["models"]) == {"joint"}
    assert {run["point"]["strategy"] for run in finished.runs} == {"single", "joint"}
    assert "Δ joint" in (finished.folder / "results.md").read_text()


def test_every_cell_is_checked_before_the_first_runs(experiment_values):
    with pytest.raises(UnknownNameError, match=r"Unknown strategy 'jiont'\. Did you mean 'joint'"):
        mtl.Experiment.of(**experiment_values, compare={"strategy": ["single", "jiont"]}).run()
    assert not list(Path(experiment_values["output"]).rglob("results.json"))


def test_an_unknown_aggregate_is_refused(experiment_values):
    with pytest.raises(UnknownNameError, match=r"Unknown aggregate 'moood'\. Did you mean 'mood'"):
        mtl.Experiment.of(**{**experiment_values, "evaluation": {"aggregate": "moood"}}).run()


def test_a_task_that_is_listed_twice_is_refused(experiment_values):
    experiment_values["tasks"] *= 2
    with pytest.raises(ConfigError, match="'mood' is listed twice"):
        mtl.Experiment.of(**experiment_values).run()


def test_results_of_another_version_are_not_taken(experiment_values):
    experiment = mtl.Experiment.of(**experiment_values)
    folder = Path(experiment_values["output"]) / "quick" / f"joint-{experiment.config.hash}"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"version": 0}')
    with pytest.raises(CheckpointError, match="is of version 0.*Use another output folder"):
        experiment.run()


def test_a_task_may_have_the_name_of_an_attribute_of_torch(experiment_values):
    values = {**experiment_values, "tasks": [{"name": "type", "kind": "classification", "data": splits(sentiment_rows(32))}]}
    assert set(mtl.Experiment.of(**values).run().runs[0]["results"]["tasks"]) == {"type"}


class Sore:
    """Fails in a step, and again when it is told of the failure."""

    @mtl.hookimpl
    def mtl_step_end(self, step):
        raise TrainingError("the first fault")

    @mtl.hookimpl
    def mtl_run_failed(self, error):
        raise ValueError("the second fault")


SORE = Sore()


def test_a_fault_in_mtl_run_failed_does_not_hide_what_stopped_the_run(experiment_values, caplog):
    experiment = mtl.Experiment.of(**experiment_values, plugins=[f"{__name__}:SORE"])
    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError, match="^the first fault$"):
        experiment.run()
    assert "SORE' (named by the user) raised in hook mtl_run_failed: ValueError: the second fault" in caplog.text


def test_a_plugin_that_is_not_there_stops_before_anything_runs(experiment_values):
    with pytest.raises(PluginError, match="Plugin 'no_such_plugin' cannot be loaded: ModuleNotFoundError"):
        mtl.Experiment.of(**experiment_values, plugins=["no_such_plugin"]).run()


def test_a_folder_does_not_hide_the_experiment_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mtl.load_experiment("demo").config.name == "demo"


def test_transfer_of_a_bundle_keeps_what_leaves_its_frozen_layers_as_its_training_did(experiment_values, tmp_path, monkeypatch):
    computed = []
    compute = KeptStates._compute
    monkeypatch.setattr(
        KeptStates, "_compute", lambda self, missing, *rest: computed.append(len(missing)) or compute(self, missing, *rest)
    )
    values = experiment_values | {"encoder": experiment_values["encoder"] | {"freeze": 1, "cache": 0.05}}
    trained = mtl.Experiment.of(**values).run().folder
    targets = {"tasks": ["topic"], "shots": [2], "protocol": {"name": "domain", "draws": 2}, "adaptation": "prototype"}
    topics = [{"text": f"the {('cat', 'mat')[n % 2]} is fine {n}", "label": str(n % 2)} for n in range(32)]
    asked = experiment_values | {
        "tasks": [{"name": "topic", "kind": "classification", "data": splits(topics)}],
        "targets": targets,
    }
    sums = []
    for name in ("first", "second"):
        computed.clear()
        mtl.Experiment.of(**(asked | {"output": str(tmp_path / name)})).transfer([trained])
        sums.append(sum(computed))
    assert sums[0] > 0
    assert sums[1] == 0


def test_a_weight_for_one_task_goes_with_models_of_their_own(experiment_values):
    weighting = {"name": "static", "weights_by_task": {"mood": 2.0}}
    experiment_values |= {"strategy": {"name": "single", "weighting": weighting}, "budget": {"epochs": 1}}
    assert set(mtl.Experiment.of(**experiment_values).run().runs[0]["results"]["tasks"]) == {"mood", "rating", "places"}
    weighting["weights_by_task"] = {"mod": 2.0}
    with pytest.raises(UnknownNameError, match="Unknown task in weights_by_task 'mod'"):
        mtl.Experiment.of(**experiment_values | {"name": "misspelt"}).run()


def test_models_that_would_share_a_folder_are_refused(experiment_values):
    for task, name in zip(experiment_values["tasks"], ("x/mood", "x.mood", "places"), strict=True):
        task["name"] = name
    with pytest.raises(ConfigError, match=r"Models of 'x/mood' and 'x\.mood' would share the folder 'x\.mood'\. Rename one"):
        mtl.Experiment.of(**experiment_values | {"strategy": "single"}).run()
