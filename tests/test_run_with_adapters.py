"""Runs with adapters: from the experiment file to a small bundle, and to one that stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mtl
from mtl.cli import app
from mtl.config import Choice
from mtl.errors import ConfigError
from mtl.model.bundle import load_bundle
from mtl.model.export import export
from mtl.plugins import load_plugins
from mtl.transfer.adapt import adapt

REGISTERS = """
from pathlib import Path
import mtl

@mtl.hookimpl
def mtl_register_encoders(register):
    register("tiny", lambda: Path({folder!r}))
"""
TEXTS = ["the cat is good", "bob ran to paris"]


@pytest.fixture(scope="module")
def plugin(encoder_folder, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "tiny_encoder.py"
    path.write_text(REGISTERS.format(folder=str(encoder_folder)))
    return str(path)


def run(values, plugin, **changes):
    values["encoder"] = {"name": "tiny", "max_length": 32, "freeze": "all", **changes.pop("encoder")}
    (run,) = mtl.Experiment.of(**{**values, "plugins": [plugin], "budget": {"epochs": 1}, **changes}).run().runs
    return Path(run["folder"])


@pytest.fixture
def finished(experiment_values, plugin):
    """The folder of a run in which each of three tasks has bottlenecks of its own, in mixed batches."""
    adapter = {"name": "bottleneck", "rank": 4, "per_task": True}
    return run(experiment_values, plugin, encoder={"adapter": adapter}, batch={"size": 8, "mixed": True})


def test_a_run_stores_adapters_and_heads_alone(finished, plugin):
    (bundle,) = finished.glob("models/*")
    assert [path.name for path in (bundle / "encoder").iterdir()] == ["adapters.safetensors"]
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["base"]["name"] == "tiny"
    assert len(about["base"]["sha256"]) == 64
    # Three tasks, two bottlenecks in each of two layers: 2md + d + m with d = 32 and m = 4; and the heads: 2, 1 and 5 outputs.
    (result,) = (json.loads(path.read_text()) for path in finished.glob("models/*/result.json"))
    assert result["parameters"] == 3 * 2 * 2 * (2 * 4 * 32 + 32 + 4) + (2 + 1 + 5) * (32 + 1)
    answers = load_bundle(finished, plugins=load_plugins([plugin])).predict(TEXTS)
    assert set(answers[0]) == {"mood", "rating", "places"}


def test_the_command_line_exports_a_bundle_that_stands_alone(finished, plugin, tmp_path):
    arguments = ["export", str(finished), "--output", str(tmp_path / "alone"), "--keep-adapters", "--plugin", plugin]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    before = load_bundle(finished, plugins=load_plugins([plugin])).predict(TEXTS)
    assert load_bundle(tmp_path / "alone").predict(TEXTS) == before  # no plugin is named


def test_a_task_without_adapters_of_its_own_cannot_be_learned(finished, plugin, tmp_path):
    plugins = load_plugins([plugin])
    task = mtl.Task(name="new", kind="classification", data=[])
    with pytest.raises(ConfigError, match=r"encoder\.adapter\.per_task, and 'new' has no adapters.*mtl export"):
        adapt(load_bundle(finished, plugins=plugins), task, tmp_path / "rows.jsonl", None, plugins)


@pytest.mark.parametrize(
    ("strategy", "adapter"), [("fomaml", {"name": "bottleneck", "rank": 4}), ("maml", {"name": "prefix", "length": 3})]
)
def test_inner_loops_and_adaptations_move_adapters_alone(strategy, adapter, experiment_values, plugin):
    targets = {"tasks": ["tone"], "shots": [2], "adaptation": ["adapter", "inner-loop"], "baselines": [], "overlap": "allow"}
    tone = {**experiment_values["tasks"][0], "name": "tone"}
    folder = run(
        experiment_values,
        plugin,
        encoder={"adapter": adapter},
        tasks=[experiment_values["tasks"][0], tone],
        targets={**targets, "protocol": {"name": "domain", "draws": 2}},
        strategy={"name": strategy, "adapt": "adapter", "steps": 1},
        episodes={"ways": 2, "shots": 2, "queries": 2},
    )
    (bundle,) = folder.glob("models/*")
    assert [path.name for path in (bundle / "encoder").iterdir()] == ["adapters.safetensors"]


def test_what_was_practised_with_adapters_is_not_asked_of_an_encoder_without(experiment_values, plugin, tmp_path):
    folder = run(
        experiment_values,
        plugin,
        encoder={"adapter": {"name": "lora"}},
        tasks=experiment_values["tasks"][:1],
        strategy={"name": "fomaml", "adapt": "adapter", "steps": 1},
        episodes={"ways": 2, "shots": 2, "queries": 2},
    )
    plugins = load_plugins([plugin])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"the {word}", "label": word}) + "\n" for word in ("cat", "dog") * 3))
    task = mtl.Task(name="new", kind="classification", data=[])
    adapted = adapt(load_bundle(folder, plugins=plugins), task, rows, Choice(name="ridge"), plugins)
    adapted.save(tmp_path / "adapted")
    export(load_bundle(tmp_path / "adapted", plugins=plugins), tmp_path / "alone")
    alone = load_bundle(tmp_path / "alone", plugins=plugins)
    assert alone.practice is None
    again = adapt(alone, mtl.Task(name="more", kind="classification", data=[]), rows, None, plugins)
    assert set(again.tasks) == {"new", "more"}


def test_an_encoder_folder_with_adapters_beside_it_is_refused(experiment_values, plugin, finished, tmp_path):
    whole = tmp_path / "whole"
    CliRunner().invoke(app, ["export", str(finished), "--output", str(whole), "--keep-adapters", "--plugin", plugin])
    experiment_values["encoder"] = {"name": str(whole / "encoder"), "max_length": 32}
    with pytest.raises(mtl.MTLError, match=r"has adapters beside its weights\. Fold them in first: mtl export"):
        mtl.Experiment.of(**experiment_values).run()
