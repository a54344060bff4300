"""Mistakes around encoders, plugins, model bundles and finished runs: exit code 2 and one message, as in test_bad_inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import changed, make_encoder, sentiment_rows, splits

import mtl
from mtl.files import locked

# Encoders


def _torn(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


ENCODERS: dict[str, tuple[Callable[[Path], None] | None, dict[str, Any], tuple[str, ...]]] = {
    "not found offline": (None, {"encoder.name": "nobody/nothing-here"}, ("'nobody/nothing-here'", "Hub", "minilm")),
    "folder without config": (_without("config.json"), {}, ("folder", "config.json")),
    "folder without weights": (_without("model.safetensors"), {}, ("folder", "model.safetensors")),
    "folder without tokenizer": (_without("tokenizer.json"), {}, ("tokenizer",)),
    "torn weights": (_torn, {}, ("folder", "model.safetensors")),
    "max_length too long": (None, {"encoder.max_length": 5000}, ("encoder.max_length", "5000", "at most 128")),
    "nothing frozen to keep": (None, {"encoder.cache": 1}, ("encoder.cache", "encoder.freeze")),
    "a cache below zero": (None, {"encoder.cache": -1}, ("encoder.cache", "at least 0")),
    "more layers frozen than there are": (None, {"encoder.freeze": 9}, ("encoder.freeze", "9", "2 layers")),
}


@pytest.mark.parametrize(("damage", "changes", "pieces"), ENCODERS.values(), ids=ENCODERS)
def test_encoder(damage, changes, pieces, encoder_folder, experiment_values, write_experiment, tmp_path, fails):
    if damage is not None:
        folder = tmp_path / "encoder"
        shutil.copytree(encoder_folder, folder)
        damage(folder)
        changes = {"encoder.name": str(folder), **changes}
    fails("run", write_experiment(changed(experiment_values, changes)), pieces=pieces)


# Plugins

HEAD = "import mtl\nfrom mtl_tasks.classification import Classification\n"


def _hook(name: str, body: str, arguments: str = "register") -> str:
    return f"{HEAD}@mtl.hookimpl\ndef {name}({arguments}):\n    {body}\n"


def _kind(definition: str) -> str:
    return _hook("mtl_register_kinds", "register('odd', Odd)").replace("@mtl", f"{definition}\n@mtl", 1)


ODD = {"tasks.0.kind": "odd"}
PLUGINS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "raises at import": ("raise ValueError('no key')", {}, ("bad_", "cannot be loaded", "ValueError: no key")),
    "is not Python": ("def (", {}, ("bad_", "cannot be loaded", "SyntaxError", "line 1")),
    "raises while registering": (_hook("mtl_register_tasks", "1 / 0"), {}, ("bad_", "mtl_register_tasks", "ZeroDivisionError")),
    "raises in a hook": (_hook("mtl_run_start", "1 / 0", "run"), {}, ("bad_", "mtl_run_start", "ZeroDivisionError")),
    "exits": (_hook("mtl_register_tasks", "raise SystemExit(3)"), {}, ("bad_", "mtl_register_tasks", "SystemExit")),
    "unknown hook": (_hook("mtl_register_task", "pass"), {}, ("bad_", "'mtl_register_task'", "'mtl_register_tasks'")),
    "unknown argument": (_hook("mtl_run_start", "pass", "runn"), {}, ("bad_", "mtl_run_start", "'runn'", "run")),
    "no hook": ("x = 1", {}, ("bad_", "no hook", "hookimpl")),
    "duplicate task": (
        _hook("mtl_register_tasks", "register(mtl.Task(name='helpdesk/intent', kind='classification', data=[]))"),
        {},
        ("'helpdesk/intent'", "twice", "mtl_tasks", "bad_"),
    ),
    "duplicate kind": (_hook("mtl_register_kinds", "register('regression', 'a:b')"), {}, ("'regression'", "twice", "bad_")),
    "task that is none": (_hook("mtl_register_tasks", "register('sst2')"), {}, ("bad_", "mtl_register_tasks", "mtl.Task", "str")),
    "task that is not valid": (
        _hook("mtl_register_tasks", "register(mtl.Task(name='a', kind='b', data=[], lables=[]))"),
        {},
        ("bad_", "mtl_register_tasks", "'a'", "lables: unknown key", "'labels'"),
    ),
    "metric that is none": (_hook("mtl_register_metrics", "register('f1', [])"), {}, ("bad_", "mtl.Metric", "str")),
    "name that is none": (_hook("mtl_register_kinds", "register(3, 'a:b')"), {}, ("bad_", "kind", "3", "name")),
    "kind that is none": (_kind("class Odd: pass"), ODD, ("bad_", "kind 'odd'", "TaskKind")),
    "kind that is an object": (_hook("mtl_register_kinds", "register('odd', 5)"), ODD, ("bad_", "kind 'odd'", "TaskKind")),
    "abstract kind": (
        _kind("class Odd(mtl.TaskKind): pass"),
        ODD,
        ("bad_", "kind 'odd'", "does not define", "decode", "loss", "metrics", "roles"),
    ),
    "head without module": (
        _kind("class Odd(Classification):\n    def head(self, hidden):\n        return None"),
        ODD,
        ("'odd'", "head()", "nn.Module"),
    ),
    "strategy that is none": (
        _hook("mtl_register_strategies", "register('odd', dict)"),
        {"strategy": "odd"},
        ("bad_", "strategy 'odd'", "Strategy"),
    ),
    "module of a thing missing": (_hook("mtl_register_kinds", "register('odd', 'no_such:Odd')"), ODD, ("kind 'odd'", "no_such")),
    "attribute of a thing missing": (
        _hook("mtl_register_kinds", "register('odd', 'mtl.kind:TaskKnd')"),
        ODD,
        ("kind 'odd'", "mtl.kind:TaskKnd"),
    ),
    "encoder that is nowhere": (
        _hook("mtl_register_encoders", "register('odd', lambda: '/no/such/folder')"),
        {"encoder": "odd"},
        ("'odd'", "/no/such/folder"),
    ),
    "encoder that raises": (
        _hook("mtl_register_encoders", "register('odd', lambda: 1 / 0)"),
        {"encoder": "odd"},
        ("bad_", "encoder 'odd'", "ZeroDivisionError"),
    ),
}


@pytest.mark.parametrize(("source", "changes", "pieces"), PLUGINS.values(), ids=PLUGINS)
def test_plugin(source, changes, pieces, experiment_values, write_experiment, tmp_path, fails):
    file = tmp_path / f"bad_{abs(hash(source))}.py"
    file.write_text(source)
    fails("run", write_experiment(changed(experiment_values, changes)), "--plugin", file, pieces=pieces)


REFERENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "module missing": ("no_such_module", ("'no_such_module'", "cannot be loaded", "No module")),
    "attribute missing": ("mtl_plugins.joint:Jont", ("'mtl_plugins.joint:Jont'", "'Jont'", "'Joint'")),
    "file missing": ("no_such_file.py:Plugin", ("no_such_file.py", "no file")),
    "two of one name": ("mtl_plugins", ("Two plugins", "'mtl_plugins'", "bundled", "named by the user")),
    "empty": (":x", ("':x'", "module:object")),
}


@pytest.mark.parametrize(("reference", "pieces"), REFERENCES.values(), ids=REFERENCES)
def test_plugin_reference(reference, pieces, experiment_values, write_experiment, fails):
    fails("run", write_experiment(experiment_values), "--plugin", reference, pieces=pieces)


def test_plugin_named_in_the_experiment(experiment_values, write_experiment, fails):
    values = experiment_values | {"plugins": ["no_such_module"]}
    fails("run", write_experiment(values), pieces=("'no_such_module'", "cannot be loaded"))


def test_plugin_named_in_the_environment(experiment_values, write_experiment, monkeypatch, fails):
    monkeypatch.setenv("MTL_PLUGINS", "no_such_module")
    fails("run", write_experiment(experiment_values), pieces=("'no_such_module'", "cannot be loaded"))


# Runs and bundles


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The output folder of a trained run with a text task and a pair task, and its experiment."""
    base = tmp_path_factory.mktemp("trained")
    pairs = [{**row, "text_pair": "a cat"} for row in sentiment_rows(16)]
    for split, rows in splits(sentiment_rows(16)).items():
        (base / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "done",
        "base": str(base),
        "encoder": {"name": str(make_encoder(base / "encoder", layers=1)), "max_length": 32},
        "tasks": [
            {"name": "mood", "kind": "classification", "data": "{split}.jsonl"},
            {"name": "pair", "kind": "pair-classification", "data": splits(pairs)},
        ],
        "budget": {"examples_per_task": 8},
        "evaluation": {"times": 1},
        "threads": 1,
        "output": str(base / "runs"),
    }
    mtl.Experiment.of(**values).run()
    return base, values


@pytest.fixture
def copied(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the trained run that a test may damage."""
    (found,) = trained[0].glob("runs/done/*/results.json")
    shutil.copytree(found.parent, tmp_path / "run")
    return tmp_path / "run"


def _edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        path = run / "models" / "joint" / "bundle.json"
        about = json.loads(path.read_text())
        change(about)
        path.write_text(json.dumps(about))

    return edit


def _cut(name: str) -> Callable[[Path], None]:
    def cut(run: Path) -> None:
        path = run / name
        path.write_bytes(path.read_bytes()[:20])

    return cut


BUNDLES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no bundle": (lambda run: shutil.rmtree(run / "models"), ("is not a bundle", "bundle.json")),
    "no folder": (shutil.rmtree, ("run", "no folder")),
    "several bundles": (lambda run: shutil.copytree(run / "models/joint", run / "models/other"), ("2 bundles", "joint", "other")),
    "wrong format": (_edited(lambda about: about.update(format=99)), ("format 99", "reads format 3")),
    "torn bundle.json": (_cut("models/joint/bundle.json"), ("bundle.json", "cannot be read")),
    "no format": (_edited(lambda about: about.pop("format")), ("format", "reads format 3")),
    "no tasks": (_edited(lambda about: about.pop("tasks")), ("joint", "'tasks'")),
    "no encoder": (lambda run: shutil.rmtree(run / "models/joint/encoder"), ("joint", "encoder")),
    "torn encoder": (_cut("models/joint/encoder/model.safetensors"), ("joint", "encoder", "model.safetensors")),
    "torn heads": (_cut("models/joint/heads.safetensors"), ("joint", "heads.safetensors")),
    "no heads": (_without("models/joint/heads.safetensors"), ("joint", "heads.safetensors")),
    "heads of another model": (
        _edited(lambda about: about["tasks"][0]["state"].update(labels=["a", "b", "c"])),
        ("joint", "do not fit", "mood"),
    ),
    "state of another kind": (_edited(lambda about: about["tasks"][0].update(state={})), ("joint", "'labels'")),
    "kinds without plugin": (
        _edited(
            lambda about: (
                [entry["task"].update(kind="odd") for entry in about["tasks"]],
                about["plugins"].update(odd="'shop' (shop 2.1)"),
            )
        ),
        ("kind 'odd'", "'shop' (shop 2.1)", "--plugin"),
    ),
}


@pytest.mark.parametrize(("damage", "pieces"), BUNDLES.values(), ids=BUNDLES)
def test_bundle(damage, pieces, copied, fails):
    damage(copied)
    fails("predict", copied, pieces=pieces)


INPUTS: dict[str, tuple[bytes, tuple[str, ...], tuple[str, ...]]] = {
    "broken JSON": (b'good\n{"text": "bad"\n', (), ("in.txt, line 2", "JSON", "column")),
    "empty line": (b"good\n\nbad\n", (), ("in.txt, line 2", "empty")),
    "not UTF-8": (b"good\nsch\xf6n\n", (), ("in.txt, line 2", "UTF-8")),
    "unknown task": (b"good\n", ("--task", "moood"), ("'moood'", "'mood'")),
    "unknown column": (b'{"txt": "good"}\n', (), ("in.txt, row 1", "'txt'", "Did you mean 'text'")),
    "a row without a column": (b'{"text": "a"}\n{"txt": "b"}\n', (), ("in.txt, row 2", "'txt'", "'text'")),
    "column of a task missing": (b"good\n", ("--task", "pair"), ("'pair'", "text_pair")),
    "number for a text": (b'good\n{"text": 5}\n', (), ("in.txt, row 2", "'text'", "5 (int)")),
    "null for a text": (b'good\n{"text": null}\n', (), ("in.txt, row 2", "'text'", "nothing")),
    "late in a long file": (b"good\n" * 1500 + b'{"text": 5}\n', ("--task", "mood"), ("in.txt, row 1501", "'text'")),
}


@pytest.mark.parametrize(("content", "options", "pieces"), INPUTS.values(), ids=INPUTS)
def test_predict(content, options, pieces, trained, tmp_path, fails):
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    fails("predict", trained[0] / "runs", "--input", path, *options, pieces=pieces)


def test_predict_without_its_file(trained, tmp_path, fails):
    (tmp_path / "in.txt").touch()
    fails("predict", trained[0], "--input", tmp_path / "inn.txt", pieces=("inn.txt", "no file", "'in.txt'"))


REPORTS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no results": (_without("results.json"), ("run has no results", "results.json")),
    "no folder": (shutil.rmtree, ("run", "no folder")),
    "torn results": (_cut("results.json"), ("results.json", "cannot be read")),
    "results of nothing": (lambda run: (run / "results.json").write_text("{}"), ("results.json", "mtl")),
    "comparison without its cells": (
        lambda run: (run / "comparison.json").write_text(
            json.dumps({"experiment": "a", "axes": {}, "cells": [{"point": {}, "folder": "gone"}]})
        ),
        ("gone", "results.json"),
    ),
}


@pytest.mark.parametrize(("damage", "pieces"), REPORTS.values(), ids=REPORTS)
def test_report(damage, pieces, copied, fails):
    damage(copied)
    fails("report", copied, pieces=pieces)


def test_run_with_torn_results(trained, tmp_path, write_experiment, fails):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    (results,) = tmp_path.glob("runs/done/*/results.json")
    results.write_text("{")
    fails("run", write_experiment(trained[1] | {"output": str(tmp_path / "runs")}), pieces=("results.json", "cannot be read"))


def test_run_whose_data_have_changed(trained, tmp_path, write_experiment, fails):
    for name in ("runs", "train.jsonl", "validation.jsonl", "test.jsonl"):
        (shutil.copytree if name == "runs" else shutil.copy)(trained[0] / name, tmp_path / name)
    (results,) = tmp_path.glob("runs/done/*/results.json")
    results.unlink()
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write('{"text": "so good", "label": "good"}\n')
    values = trained[1] | {"output": str(tmp_path / "runs"), "base": str(tmp_path)}
    fails("run", write_experiment(values), pieces=("'mood'", "train.jsonl", "has changed", "Remove", "another name"))


def test_run_in_use(trained, tmp_path, write_experiment, fails):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    (results,) = tmp_path.glob("runs/done/*/results.json")
    with locked(results.parent):
        fails(
            "run",
            write_experiment(trained[1] | {"output": str(tmp_path / "runs")}),
            pieces=(str(results.parent), "in use by another process", "Wait"),
        )
