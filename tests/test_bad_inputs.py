"""Every mistake a user can make ends in exit code 2 and one message that names the place and the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import DROP, changed, rating_rows, sentiment_rows

MOOD = "tasks.0"

UNKNOWN_KEYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "top level": ({"bugdet": {"epochs": 1}}, ("quick.yaml", "bugdet: unknown key", "'budget'")),
    "key of another level": ({"epochs": 3}, ("epochs: unknown key", "'budget.epochs'")),
    "like no other": ({"zzz": 1}, ("zzz: unknown key", "encoder")),
    "encoder": ({"encoder.max_lenght": 8}, ("encoder.max_lenght: unknown key", "'max_length'")),
    "batch": ({"batch.sise": 8}, ("batch.sise: unknown key", "'size'")),
    "budget": ({"budget.epoch": 1}, ("budget.epoch: unknown key", "'epochs'")),
    "optimizer": ({"optimizer.learningrate": 1}, ("optimizer.learningrate: unknown key", "'learning_rate'")),
    "optimizer, short": ({"optimizer.lr": 1}, ("optimizer.lr: unknown key", "learning_rate")),
    "evaluation": ({"evaluation.agregate": "mean"}, ("evaluation.agregate: unknown key", "'aggregate'")),
    "checkpoint": ({"checkpoint.every": 3}, ("checkpoint.every: unknown key", "'every_seconds'")),
    "targets": ({"targets": {"tasks": ["mood"], "shot": [1]}}, ("targets.shot: unknown key", "'shots'")),
    "task": ({f"{MOOD}.colums": {}}, ("'mood'", "colums: unknown key", "'columns'")),
    "data": ({f"{MOOD}.data": {"trian": []}}, ("'mood'", "data", "trian", "train")),
    "data of the Hub": ({f"{MOOD}.data": {"hub": "a/b", "splitz": {}}}, ("'mood'", "splitz: unknown key", "'splits'")),
    "options of a kind": ({"tasks.1.options": {"lwo": 0}}, ("'rating'", "'regression'", "lwo: unknown key", "'low'")),
    "options of a kind without": ({f"{MOOD}.options": {"low": 0}}, ("'mood'", "'classification'", "low: unknown key", "none")),
    "options of a strategy": ({"strategy": {"name": "joint", "weigting": "dwa"}}, ("'joint'", "'weigting'", "'weighting'")),
    "options of an adapter": ({"encoder.adapter": {"name": "lora", "rnak": 2}}, ("adapter 'lora'", "'rnak'", "'rank'")),
    "the old key of LoRA": ({"encoder.lora": 8}, ("encoder.lora: unknown key",)),
    "options of a sampler": ({"sampler": {"name": "temperature", "temprature": 2}}, ("'temprature'", "'temperature'")),
    "options of a sampler without": ({"sampler": {"name": "uniform", "cap": 2}}, ("'uniform'", "'cap'", "none")),
    "options of a weighting": (
        {"strategy": {"name": "joint", "weighting": {"name": "dwa", "period": 3}}},
        ("weighting 'dwa'", "'period'", "'periods'"),
    ),
    "column role": ({f"{MOOD}.columns": {"txt": "text"}}, ("'mood'", "'classification'", "'txt'", "'text'")),
}

UNKNOWN_NAMES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "task": ({"tasks.0": "helpdesk/inent"}, ("task 'helpdesk/inent'", "'helpdesk/intent'")),
    "kind": ({f"{MOOD}.kind": "clasification"}, ("kind 'clasification'", "'classification'")),
    "strategy": ({"strategy": "jont"}, ("strategy 'jont'", "'joint'")),
    "weighting": ({"strategy": {"name": "joint", "weighting": "uncertanty"}}, ("weighting 'uncertanty'", "'uncertainty'")),
    "task of a weighting": (
        {"strategy": {"name": "joint", "weighting": {"name": "static", "weights_by_task": {"mod": 2}}}},
        ("'mod'", "'mood'"),
    ),
    "sampler": ({"sampler": "unifrom"}, ("sampler 'unifrom'", "'uniform'")),
    "adaptation": (
        {"targets": {"tasks": ["mood"], "adaptation": "prototyp"}},
        ("adaptation 'prototyp'", "'prototype'"),
    ),
    "encoder": ({"encoder": "minilmm"}, ("'minilmm'", "'minilm'")),
    "adapter": ({"encoder.adapter": "loar"}, ("adapter 'loar'", "'lora'")),
    "metric": ({f"{MOOD}.metric": "acuracy"}, ("'mood'", "metric 'acuracy'", "'accuracy'")),
    "aggregate": ({"evaluation.aggregate": "men"}, ("aggregate 'men'", "'mean'", "mood")),
    "source": ({"sources": ["moood"]}, ("source task 'moood'", "'mood'")),
    "target": (
        {"targets": {"tasks": ["helpdesk/intent/utilitis"]}},
        ("'helpdesk/intent/utilitis'", "'helpdesk/intent/utilities'"),
    ),
    "target that is listed": ({"targets": {"tasks": ["moood"]}}, ("'moood'", "'mood'")),
    "pooling": ({"encoder.pooling": "men"}, ("encoder.pooling", "'mean'", "'men'")),
    "schedule": ({"optimizer.schedule": "linar"}, ("optimizer.schedule", "'linear'", "'linar'")),
}

VALUES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no rank": ({"encoder.adapter": {"name": "lora", "rank": 0}}, ("adapter 'lora'", "rank", "at least 1", "0")),
    "too high a rank": ({"encoder.adapter": {"name": "dora", "rank": 2000}}, ("adapter 'dora'", "rank", "at most 1024", "2000")),
    "number for an adapter": ({"encoder.adapter": 8}, ("encoder.adapter", "name", "8")),
    "parts without adapters": (
        {"encoder.adapter": {"name": "bottleneck", "modules": ["qwery"]}},
        ("encoder.adapter", "bottleneck", "encoder.adapter.modules"),
    ),
    "text for a rate": ({"optimizer.learning_rate": "fast"}, ("optimizer.learning_rate", "a number", "'fast'")),
    "text for a whole number": ({"batch.size": "many"}, ("batch.size", "whole number", "'many'")),
    "fraction for a whole number": ({"seed": 1.5}, ("seed", "whole number", "1.5")),
    "number for a mapping": ({"batch": 5}, ("batch", "mapping", "5")),
    "number for a name": ({"strategy": 5}, ("strategy", "name", "5")),
    "mapping for a name": ({"evaluation.aggregate": {"a": 1}}, ("evaluation.aggregate", "text")),
    "text for a list": ({"tasks": "mood"}, ("tasks", "list", "'mood'")),
    "number for a task": ({"tasks": [5]}, ("tasks.0", "mapping", "text", "5")),
    "text for yes or no": ({"batch.mixed": "maybe"}, ("batch.mixed", "true or false", "'maybe'")),
    "nothing": ({"encoder": None}, ("encoder", "mapping", "nothing")),
    "negative rate": ({"optimizer.learning_rate": -1e-5}, ("optimizer.learning_rate", "greater than 0", "-1e-05")),
    "infinite rate": ({"optimizer.learning_rate": ".inf"}, ("optimizer.learning_rate", "number")),
    "batch of no rows": ({"batch.size": 0}, ("batch.size", "at least 1", "0")),
    "temperature 0": ({"sampler": {"name": "temperature", "temperature": 0}}, ("'temperature'", "greater than 0", "0")),
    "warmup over 1": ({"optimizer.warmup": 2}, ("optimizer.warmup", "at most 1", "2")),
    "negative shots": ({"targets": {"tasks": ["mood"], "shots": [-1]}}, ("targets.shots", "at least 0", "-1")),
    "empty shots": ({"targets": {"tasks": ["mood"], "shots": []}}, ("targets.shots", "at least 1")),
    "negative seed": ({"seed": -1}, ("seed", "at least 0", "-1")),
    "NaN weight": ({f"{MOOD}.weight": "NaN"}, ("'mood'", "weight", "number")),
    "dropout 1": ({"encoder.dropout": 1}, ("encoder.dropout", "less than 1", "1")),
    "max_length 2": ({"encoder.max_length": 2}, ("encoder.max_length", "at least 4", "2")),
    "freeze of a word": ({"encoder.freeze": "some"}, ("encoder.freeze", "'none'", "whole number", "'some'")),
    "no max_rows": ({f"{MOOD}.max_rows": 0}, ("'mood'", "max_rows", "at least 1")),
    "name with a slash": ({"name": "a/b"}, ("name", "letters", "'a/b'")),
    "task's name with a blank": ({f"{MOOD}.name": "my mood"}, ("'my mood'", "name", "letters")),
    "labels twice": ({f"{MOOD}.labels": ["good", "bad", "good"]}, ("'mood'", "labels", "twice", "good")),
    "one declared label": ({f"{MOOD}.labels": ["good"]}, ("'mood'", "labels", "one label", "good")),
    "no encoder": ({"encoder": DROP}, ("quick.yaml", "encoder", "missing")),
    "no tasks": ({"tasks": DROP}, ("quick.yaml", "tasks", "missing")),
    "empty tasks": ({"tasks": []}, ("tasks", "at least 1")),
    "task without kind": ({f"{MOOD}.kind": DROP}, ("'mood'", "kind", "missing")),
    "task without name": ({f"{MOOD}.name": DROP}, ("tasks.0", "name", "missing")),
    "strategy without name": ({"strategy": {"weighting": "dwa"}}, ("strategy.name", "missing")),
    "both budgets": ({"budget": {"epochs": 1, "examples_per_task": 2}}, ("budget", "either epochs or examples_per_task")),
    "no budget": ({"budget": {}}, ("budget", "either epochs or examples_per_task")),
    "more than can be dealt out": ({"budget": {"epochs": 1e300}}, ("budget.epochs", "examples in all", "budget.seconds")),
    "no passes": ({"budget": {"epochs": 1, "passes": 0}}, ("budget.passes", "at least 1")),
    "a limit alone": ({"budget": {"seconds": 5}}, ("budget", "either epochs or examples_per_task")),
    "device that is not there": ({"device": "cuda:7"}, ("device", "'cuda:7'", "cpu")),
    "device that is a typo": ({"device": "gpu"}, ("device", "'gpu'", "cpu")),
}

TASK_LISTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "task listed twice": ({"tasks.1.name": "mood"}, ("'mood'", "twice")),
    "source listed twice": ({"sources": ["mood", "mood"]}, ("sources", "'mood'", "twice")),
    "target listed twice": ({"targets": {"tasks": ["mood", "mood"]}}, ("targets", "'mood'", "twice")),
    "source and target": ({"sources": ["mood"], "targets": {"tasks": ["mood"]}}, ("'mood'", "sources", "targets")),
    "all tasks are targets": (
        {"targets": {"tasks": ["mood", "rating", "places"]}},
        ("no task to train", "mood", "source"),
    ),
    "nothing to train and no target": ({"strategy": "none"}, ("'none'", "targets")),
    "multilabel as target": (
        {f"{MOOD}.kind": "multilabel", "targets": {"tasks": ["mood"]}},
        ("'mood'", "'multilabel'", "few examples", "targets"),
    ),
    "multilabel to choose by": (
        {f"{MOOD}.kind": "multilabel", "targets": {"tasks": ["rating"], "adaptation": "ridge", "validation": ["mood"]}},
        ("'mood'", "'multilabel'", "few examples"),
    ),
    "multilabel in episodes": (
        {f"{MOOD}.kind": "multilabel", "strategy": "maml"},
        ("'mood'", "'multilabel'", "few examples", "joint"),
    ),
    "values where classes are needed": (
        {"targets": {"tasks": ["rating"]}},
        ("'prototype'", "classes", "values", "ridge"),
    ),
    "target to choose by": (
        {"targets": {"tasks": ["mood"], "validation": ["mood"]}},
        ("targets", "'mood'", "twice"),
    ),
    "more shots than rows": (
        {"targets": {"tasks": ["mood"], "shots": [2, 100]}},
        ("'mood'", "'bad'", "16", "100", "at most 16"),
    ),
}


def _target(**values: Any) -> dict[str, Any]:
    """Transfer to a task with two classes, 32 training and 16 test rows."""
    return {"targets": {"tasks": ["mood"], **values}}


def _meta(**values: Any) -> dict[str, Any]:
    """Train a task with two classes and 32 rows in episodes."""
    return {"strategy": "maml", "sources": ["mood"], **values}


#: One row of its own among those of two classes.
RARE = [*sentiment_rows(8), {"text": "the cat is very fine", "label": "fine"}]
TONE = {"name": "tone", "kind": "classification", "data": {"train": sentiment_rows(8), "test": sentiment_rows(4)}}

TRANSFER: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown protocol": (_target(protocol="episodc"), ("protocol 'episodc'", "'episodic'", "domain")),
    "unknown option of a protocol": (
        _target(protocol={"name": "episodic", "way": 2}),
        ("protocol 'episodic'", "'way'", "'ways'"),
    ),
    "option of another protocol": (_target(protocol={"name": "domain", "ways": 2}), ("protocol 'domain'", "'ways'", "draws")),
    "protocol without its path": (_target(protocol="supports"), ("protocol 'supports'", "path", "missing")),
    "draws of old": (_target(draws=3), ("targets.draws", "unknown key", "protocol")),
    "unknown option of an adaptation": (
        _target(adaptation={"name": "ridge", "penalti": 1}),
        ("adaptation 'ridge'", "'penalti'", "'penalty'"),
    ),
    "one of several adaptations": (_target(adaptation=["ridge", "logstic"]), ("adaptation 'logstic'", "'logistic'")),
    "no adaptation": (_target(adaptation=[]), ("targets.adaptation", "at least 1")),
    "penalty 0": (_target(adaptation={"name": "ridge", "penalty": 0}), ("'ridge'", "penalty", "greater than 0", "0")),
    "unknown baseline": (_target(baselines=["jont"]), ("strategy 'jont'", "'joint'")),
    "unknown overlap": (_target(overlap="dropp"), ("targets.overlap", "'drop'", "'dropp'")),
    "unknown validation task": (_target(validation=["ratin"]), ("'ratin'", "'rating'")),
    "more ways than classes": (
        _target(protocol={"name": "episodic", "ways": 3}),
        ("'mood'", "3 ways", "3 classes", "has 2"),
    ),
    "more shots and queries than rows": (
        _target(protocol={"name": "episodic", "ways": 2, "queries": 30}, shots=[5]),
        ("'mood'", "2 ways", "at least 35 rows", "has 0"),
    ),
    "more shots than rows, values": (
        _target(tasks=["rating"], shots=[25], adaptation="ridge"),
        ("'rating'", "25 rows", "has 24"),
    ),
    "class with one row": (
        {f"{MOOD}.data": {"train": RARE, "test": RARE}, **_target(shots=[2])},
        ("'mood'", "'fine'", "1 training row", "2 shots", "at most 1"),
    ),
    "label of a query that cannot be learned": (
        {f"{MOOD}.data": {"train": sentiment_rows(8), "test": [{"text": "a", "label": "goood"}]}, **_target()},
        ("rows of test, row 1", "'goood'", "'good'", "labels"),
    ),
    "no shots and no names": (_target(shots=[0]), ("'mood'", "0 shots", "name_weight", "targets.shots")),
    "no shots for ridge": (_target(shots=[0], adaptation="ridge"), ("'mood'", "0 shots", "name_weight")),
    "no shots for logistic": (_target(shots=[0], adaptation="logistic", baselines=[]), ("'mood'", "0 shots", "name_weight")),
    "no shots for matching": (_target(shots=[0], adaptation="matching", baselines=[]), ("'mood'", "0 shots", "name_weight")),
    "no shots for fine-tuning": (_target(shots=[0], adaptation="full", baselines=[]), ("'mood'", "0 shots", "name_weight")),
    "names that cannot be read": (
        _target(tasks=["places"], shots=[0], adaptation={"name": "prototype", "name_weight": 1}),
        ("'places'", "names", "'token-classification'", "0 shots"),
    ),
    "values for logistic": (
        _target(tasks=["rating"], adaptation="logistic", baselines=[]),
        ("'logistic'", "classes", "values", "ridge"),
    ),
    "an adaptation of adapters that are not there, before rows that are not there": (
        {f"{MOOD}.data": {"train": "nowhere.jsonl"}, **_target(adaptation="adapter")},
        ("adapter needs adapters in the encoder", "encoder.adapter"),
    ),
    "more layers to adapt than there are, before rows that are not there": (
        {f"{MOOD}.data": {"train": "nowhere.jsonl"}, **_target(adaptation={"name": "top-layers", "layers": 3})},
        ("the last 3 layers are asked for", "has 2"),
    ),
    "adapters of each task": (
        {"encoder.adapter": {"name": "bottleneck", "per_task": True}, **_target()},
        ("encoder.adapter.per_task", "a target that is not trained has none", "per_task: false"),
    ),
    "more layers than there are": (_target(adaptation={"name": "top-layers", "layers": 3}), ("last 3 layers", "has 2")),
    "no adapters": (_target(adaptation="adapter"), ("adapter", "encoder.adapter")),
    "tune without validation": (_target(tune={"prototype.scale": [1, 2]}), ("targets.tune", "meta-validation", "validation")),
    "tune of an unknown adaptation": (
        _target(tune={"protoype.scale": [1, 2]}, validation=["places"]),
        ("targets.tune", "'protoype.scale'", "'prototype'"),
    ),
    "tune of an unknown option": (
        _target(tune={"prototype.scal": [1, 2]}, validation=["places"]),
        ("adaptation 'prototype'", "'scal'", "'scale'"),
    ),
    "tune without an option": (_target(tune={"prototype": [1]}, validation=["places"]), ("targets.tune", "adaptation.option")),
    "tune of no values": (_target(tune={"prototype.scale": []}, validation=["places"]), ("'prototype.scale'", "no values")),
    "tune of a refused value": (
        _target(tune={"prototype.scale": [1, -1]}, validation=["places"]),
        ("'prototype'", "scale", "greater than 0", "-1"),
    ),
    "text in source and target": (
        {"tasks.1": TONE, **_target()},
        ("row 1", "'tone'", "'mood'", "targets.overlap", "drop", "allow"),
    ),
    "class in source and target": (
        {"tasks.1": TONE, **_target(protocol={"name": "episodic", "ways": 2}, shots=[1])},
        ("'bad'", "'tone'", "'mood'", "2 classes", "never trained", "targets.overlap"),
    ),
}

EPISODES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown key": ({"episodes.way": 2}, ("episodes.way", "unknown key", "'ways'")),
    "ways the wrong way": ({"episodes.ways": [5, 2]}, ("episodes.ways", "smaller", "5 and 2")),
    "three ways to draw from": ({"episodes.ways": [2, 3, 4]}, ("episodes.ways",)),
    "no shots": ({"episodes.shots": 0}, ("episodes.shots", "at least 1", "0")),
    "unknown option": ({"strategy": {"name": "maml", "step": 3}}, ("strategy 'maml'", "'step'", "'steps'")),
    "no steps": ({"strategy": {"name": "maml", "steps": 0}}, ("'maml'", "steps", "at least 1", "0")),
    "unknown part to adapt": ({"strategy": {"name": "maml", "adapt": "al"}}, ("'maml'", "adapt", "'all'", "'al'")),
    "more ways than classes": (_meta(episodes={"ways": 3, "shots": 1}), ("'mood'", "3 ways", "3 classes", "has 2")),
    "more shots than rows": (_meta(episodes={"ways": 2, "shots": 100}), ("'mood'", "2 ways", "at least 105 rows", "has 0")),
    "more shots than rows, values": (
        {**_meta(episodes={"shots": 100}), "sources": ["rating"]},
        ("'rating'", "105 rows", "has 24"),
    ),
    "more layers than there are": (
        _meta(strategy={"name": "maml", "adapt": 3}, episodes={"ways": 2, "shots": 1}),
        ("adapt", "last 3 layers", "has 2"),
    ),
    "no adapters": (
        _meta(strategy={"name": "maml", "adapt": "adapter"}, episodes={"ways": 2, "shots": 1}),
        ("adapt", "adapter", "encoder.adapter"),
    ),
    "adapters of each task": (
        {"encoder.adapter": {"name": "bottleneck", "per_task": True}, "strategy": "maml", "sources": ["mood"]},
        ("encoder.adapter.per_task", "'maml'", "joint", "per_task: false"),
    ),
    "adapters of each task that are computed again": (
        {"encoder.adapter": {"name": "bottleneck", "per_task": True}, "encoder.checkpointing": True},
        ("encoder.adapter.per_task", "encoder.checkpointing cannot follow", "Set one only"),
    ),
    "adapted layers that are frozen": (
        {**_meta(episodes={"ways": 2, "shots": 1}), "encoder.freeze": "all"},
        ("strategy", "encoder.freeze", "adapt"),
    ),
    "values for protonet": (
        {"strategy": "protonet", "sources": ["rating"], "episodes": {"shots": 1, "queries": 1}},
        ("'rating'", "'regression'", "classes", "protonet"),
    ),
}

COMPARE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown axis": ({"sede": [1, 2]}, ("compare", "'sede'", "'seed'")),
    "unknown inner axis": ({"budget.epoch": [1, 2]}, ("compare", "budget.epoch", "'epochs'")),
    "empty axis": ({"seed": []}, ("compare", "'seed'", "no values")),
    "axis without a list": ({"seed": 3}, ("compare.seed", "list", "3")),
    "refused value": ({"batch.size": [8, 0]}, ("compare", "batch.size", "at least 1", "0")),
    "refused name": ({"strategy": ["joint", "singel"]}, ("strategy 'singel'", "'single'")),
}

TABLES = {**{f"unknown key, {name}": case for name, case in UNKNOWN_KEYS.items()}}
TABLES |= {f"unknown name, {name}": case for name, case in UNKNOWN_NAMES.items()}
TABLES |= {f"value, {name}": case for name, case in VALUES.items()}
TABLES |= {f"tasks, {name}": case for name, case in TASK_LISTS.items()}
TABLES |= {f"transfer, {name}": case for name, case in TRANSFER.items()}
TABLES |= {f"episodes, {name}": case for name, case in EPISODES.items()}
TABLES |= {f"compare, {name}": ({"compare": axes}, pieces) for name, (axes, pieces) in COMPARE.items()}


@pytest.mark.parametrize(("changes", "pieces"), TABLES.values(), ids=TABLES)
def test_experiment(changes, pieces, experiment_values, write_experiment, fails):
    fails("run", write_experiment(changed(experiment_values, changes)), pieces=pieces)


FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "not YAML": (b"encoder: [a\ntasks: b", ("bad.yaml", "not valid YAML", "line 2")),
    "tab": (b"encoder:\n\tname: a", ("bad.yaml", "not valid YAML", "line 2")),
    "a list": (b"- encoder\n- tasks", ("bad.yaml", "mapping", "list")),
    "empty": (b"", ("bad.yaml", "mapping", "empty")),
    "not UTF-8": ("encoder: größe".encode("latin-1"), ("bad.yaml", "UTF-8")),
    "a number as key": (b"1: 2\nencoder: a\ntasks: [b]", ("bad.yaml", "1: unknown key")),
    "a key twice": (b"encoder: a\ntasks: [b]\nseed: 1\nseed: 2", ("bad.yaml", "'seed'", "twice", "line 4")),
    "environment variable not set": (b"encoder: ${MTL_NO_SUCH}\ntasks: [b]", ("bad.yaml", "MTL_NO_SUCH", "not set")),
}


@pytest.mark.parametrize(("text", "pieces"), FILES.values(), ids=FILES)
def test_experiment_file(text, pieces, tmp_path, fails):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    fails("run", path, pieces=pieces)


def test_experiment_file_that_is_not_there(tmp_path, write_experiment, fails):
    write_experiment({})
    fails("run", tmp_path / "quik.yaml", pieces=("quik.yaml", "no file", "'quick.yaml'"))


def test_experiment_file_that_is_a_folder(tmp_path, fails):
    fails("run", tmp_path, pieces=(str(tmp_path), "folder"))


def test_experiment_of_unknown_name(fails):
    fails("run", "dmo", pieces=("experiment 'dmo'", "'demo'"))


SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "without equals": ("seed", ("--set 'seed'", "key=value")),
    "without key": ("=3", ("--set '=3'", "key=value")),
    "unknown key": ("sed=3", ("--set 'sed=3'", "'sed'", "'seed'")),
    "unknown inner key": ("batch.sise=3", ("batch.sise", "'size'")),
    "into a number": ("threads.x=3", ("--set 'threads.x=3'", "'threads'", "'x'")),
    "into a list": ("tasks.0=3", ("--set 'tasks.0=3'", "'tasks'", "'0'")),
    "not YAML": ("seed=[1", ("--set 'seed=[1'", "YAML")),
    "refused value": ("seed=-3", ("seed", "at least 0", "-3")),
}


@pytest.mark.parametrize(("override", "pieces"), SETS.values(), ids=SETS)
def test_set(override, pieces, experiment_values, write_experiment, fails):
    fails("run", write_experiment(experiment_values), "--set", override, pieces=pieces)


GOOD = b'{"text": "good", "label": "good"}\n{"text": "bad", "label": "bad"}\n'
DATA: dict[str, tuple[dict[str, bytes], dict[str, Any], tuple[str, ...]]] = {
    "missing file": ({"train.jsonl": GOOD}, {"data": "trian.jsonl"}, ("trian.jsonl", "'train.jsonl'")),
    "missing split": ({"train.jsonl": GOOD}, {"data": "tran_{split}.jsonl"}, ("tran_train.jsonl", "'train.jsonl'")),
    "missing folder": ({}, {"data": "nowhere/train.jsonl"}, ("no folder", "nowhere")),
    "unknown format": ({"rows.xls": b"x"}, {"data": "rows.xls"}, ("rows.xls", "format", ".csv", ".jsonl")),
    "empty file": ({"rows.jsonl": b""}, {"data": "rows.jsonl"}, ("'mood'", "rows.jsonl", "no rows")),
    "header only": ({"rows.csv": b"text,label\n"}, {"data": "rows.csv"}, ("'mood'", "rows.csv", "no rows")),
    "empty split": (
        {"a.jsonl": GOOD, "b.jsonl": b""},
        {"data": {"train": "a.jsonl", "validation": "b.jsonl", "test": "a.jsonl"}},
        ("'mood'", "validation split", "b.jsonl", "no rows"),
    ),
    "no train": ({"a.jsonl": GOOD}, {"data": {"test": "a.jsonl"}}, ("'mood'", "train split", "test")),
    "split emptied by where": (
        {"a.jsonl": GOOD, "b.jsonl": GOOD.splitlines()[0]},
        {"data": {"train": "a.jsonl", "validation": "b.jsonl", "test": "a.jsonl"}, "where": {"label": ["bad"]}},
        ("'mood'", "validation split", "b.jsonl", "no rows", "where", "bad"),
    ),
    "where value absent": (
        {"a.jsonl": GOOD},
        {"data": "a.jsonl", "where": {"label": ["goood"]}},
        ("'goood'", "'good'", "a.jsonl"),
    ),
    "where column absent": (
        {"a.jsonl": GOOD},
        {"data": "a.jsonl", "where": {"lable": ["good"]}},
        ("'lable'", "'label'", "where"),
    ),
    "missing column": ({"a.csv": b"texts,label\na,b\nc,d\n"}, {"data": "a.csv"}, ("a.csv", "'text'", "'texts'", "columns")),
    "missing mapped column": (
        {"a.jsonl": GOOD},
        {"data": "a.jsonl", "columns": {"text": "txt"}},
        ("a.jsonl", "'txt'", "'text'", "columns"),
    ),
    "Latin-1": ({"a.csv": b"text,label\ngut,b\nsch\xf6n,d\n"}, {"data": "a.csv"}, ("a.csv", "line 3", "UTF-8")),
    "Latin-1 JSON": ({"a.jsonl": GOOD + b'{"text": "sch\xf6n"}'}, {"data": "a.jsonl"}, ("a.jsonl", "line 3", "UTF-8")),
    "broken JSON line": ({"a.jsonl": GOOD + b'{"text": "x"\n'}, {"data": "a.jsonl"}, ("a.jsonl", "line 3", "not JSON")),
    "JSON line without object": ({"a.jsonl": GOOD + b"[1, 2]\n"}, {"data": "a.jsonl"}, ("a.jsonl", "line 3", "object", "[1, 2]")),
    "mixed types": (
        {"a.jsonl": GOOD + b'{"text": "x", "label": ["good"]}\n'},
        {"data": "a.jsonl"},
        ("a.jsonl", "'label'", "a text in row 1", "a list in row 3", "one type"),
    ),
    "broken quote": ({"a.csv": b'text,label\na,b\n"c,d\ne,f\n'}, {"data": "a.csv"}, ("a.csv", "quote", "line 3")),
    "ragged CSV": ({"a.csv": b"text,label\na,b\nc,d,e,f\n"}, {"data": "a.csv"}, ("a.csv", "line 3", "4")),
    "too few rows to cut": ({"a.jsonl": GOOD}, {"data": "a.jsonl"}, ("'mood'", "a.jsonl", "too few", "file for each split")),
    "not Parquet": ({"a.parquet": b"nonsense"}, {"data": "a.parquet"}, ("a.parquet", "cannot be read")),
    "not gzip": ({"a.jsonl.gz": GOOD}, {"data": "a.jsonl"}, ("a.jsonl.gz", "cannot be read")),
    "not a data set of the Hub": ({}, {"data": {"hub": "nobody/nothing-here"}}, ("'nobody/nothing-here'", "Hub")),
}


@pytest.mark.parametrize(("files", "task", "pieces"), DATA.values(), ids=DATA)
def test_data(files, task, pieces, experiment_values, write_experiment, tmp_path, fails):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    task = {"name": "mood", "kind": "classification", **task}
    fails("run", write_experiment(experiment_values | {"tasks": [task]}), pieces=pieces)


SUPPORTS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "missing": ({"mood_2_0.jsonl": GOOD}, ("mood_2_1.jsonl", "'mood_2_0.jsonl'")),
    "empty": ({"mood_2_0.jsonl": GOOD, "mood_2_1.jsonl": b""}, ("'mood'", "mood_2_1.jsonl", "no rows", "support")),
    "without a class": (
        {"mood_2_0.jsonl": GOOD, "mood_2_1.jsonl": GOOD.splitlines()[0]},
        ("'mood'", "mood_2_1.jsonl", "no row of class 'bad'", "protocol.skip"),
    ),
    "with other columns": (
        {"mood_2_0.jsonl": GOOD.replace(b'"text"', b'"texts"'), "mood_2_1.jsonl": GOOD},
        ("mood_2_0.jsonl", "'text'", "'texts'", "columns"),
    ),
    "with an unknown label": (
        {"mood_2_0.jsonl": GOOD + b'{"text": "a", "label": "goood"}', "mood_2_1.jsonl": GOOD},
        ("mood_2_0.jsonl, row 3", "'goood'", "'good'"),
    ),
    "without a label": (
        {"mood_2_0.jsonl": GOOD + b'{"text": "a"}', "mood_2_1.jsonl": GOOD},
        ("mood_2_0.jsonl, row 3", "label is missing"),
    ),
    "that is broken": (
        {"mood_2_0.jsonl": GOOD + b'{"text": "a"', "mood_2_1.jsonl": GOOD},
        ("mood_2_0.jsonl", "line 3", "not JSON"),
    ),
}


@pytest.mark.parametrize(("files", "pieces"), SUPPORTS.values(), ids=SUPPORTS)
def test_support(files, pieces, experiment_values, write_experiment, tmp_path, fails):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    protocol = {"name": "supports", "path": "{task}_{shots}_{split}.jsonl", "splits": 2}
    fails("run", write_experiment(changed(experiment_values, _target(shots=[2], protocol=protocol))), pieces=pieces)


def _rows(
    kind: str, bad: dict[str, Any], pieces: tuple[str, ...], **task: Any
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    return {"name": "it", "kind": kind, **task}, bad, pieces


ENTITY = {"tokens": ["a", "b"], "tags": ["O", "B-x"]}
SPANS = {"columns": {"text": "text", "spans": "spans"}}
ROWS = {
    "empty text": _rows("classification", {"text": " ", "label": "good"}, ("row 3", "'text'", "empty")),
    "null text": _rows("classification", {"text": None, "label": "good"}, ("row 3", "'text'", "nothing", "text is needed")),
    "100,000 words": _rows("classification", {"text": "a " * 100_000, "label": "good"}, ("row 3", "100,000 words", "max_words")),
    "no label": _rows("classification", {"text": "a", "label": None}, ("row 3", "label is missing")),
    "empty label": _rows("classification", {"text": "a", "label": ""}, ("row 3", "label is missing")),
    "NaN target": _rows("regression", {"text": "a", "label": float("nan")}, ("row 3", "finite", "nan")),
    "infinite target": _rows("regression", {"text": "a", "label": float("inf")}, ("row 3", "finite", "inf")),
    "missing target": _rows("regression", {"text": "a", "label": None}, ("row 3", "label is missing", "number")),
    "too many tags": _rows("token-classification", {"tokens": ["a"], "tags": ["O", "O"]}, ("row 3", "1 token", "2 tags")),
    "not BIO": _rows("token-classification", {"tokens": ["a"], "tags": ["place"]}, ("row 3", "'place'", "BIO", "B-")),
    "no tokens": _rows("token-classification", {"tokens": [], "tags": []}, ("row 3", "'tokens'", "empty")),
    "null tokens": _rows("token-classification", {"tokens": None, "tags": ["O"]}, ("row 3", "tokens")),
    "no second text": _rows(
        "pair-classification", {"text": "a", "text_pair": None, "label": "good"}, ("row 3", "'text_pair'", "nothing")
    ),
    "null labels": _rows("multilabel", {"text": "a", "label": None}, ("row 3", "label is", "list")),
}
COMMON = {
    "classification": sentiment_rows(2),
    "regression": rating_rows(2),
    "token-classification": [ENTITY, ENTITY],
    "pair-classification": [{**row, "text_pair": "b"} for row in sentiment_rows(2)],
    "multilabel": [{"text": "a", "label": [label]} for label in ("good", "bad")],
}


@pytest.mark.parametrize(("task", "bad", "pieces"), ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_row(task, bad, pieces, split, experiment_values, write_experiment, tmp_path, fails):
    for name in ("train", "validation", "test"):
        rows = [*COMMON[task["kind"]], *([bad] if name == split else [])]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"data": "{split}.jsonl", **task}
    fails("run", write_experiment(experiment_values | {"tasks": [task]}), pieces=(f"{split}.jsonl, row 3", *pieces[1:]))


TRAIN: dict[str, tuple[str, list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "number as text": (
        "classification",
        [{"text": 5, "label": "a"}, {"text": 6, "label": "b"}],
        [],
        {},
        ("row 1", "'text'", "5"),
    ),
    "list as label": (
        "classification",
        [{"text": "a", "label": ["a"]}, {"text": "b", "label": ["b"]}],
        [],
        {},
        ("row 1", "['a']", "no label"),
    ),
    "one label": ("classification", [{"text": "a", "label": "x"}] * 2, [], {}, ("'it'", "train.jsonl", "'x'", "tell apart")),
    "label unseen in train": (
        "classification",
        sentiment_rows(2),
        [{"text": "a", "label": "goood"}],
        {},
        ("test.jsonl, row 1", "'goood'", "'good'", "labels"),
    ),
    "label not declared": (
        "classification",
        sentiment_rows(2),
        [],
        {"labels": ["good", "sad"]},
        ("train.jsonl, row 2", "'bad'", "'sad'", "labels"),
    ),
    "textual target": ("regression", [{"text": "a", "label": "3"}] * 2, [], {}, ("row 1", "'3'", "number")),
    "constant target": ("regression", [{"text": "a", "label": 3}] * 2, [], {}, ("'it'", "3", "nothing to learn")),
    "bounds the wrong way": ("regression", rating_rows(4), [], {"options": {"low": 4, "high": 0}}, ("'it'", "low", "high")),
    "no entity": ("token-classification", [{"tokens": ["a"], "tags": ["O"]}], [], {}, ("'it'", "train.jsonl", "entity")),
    "no tags": ("token-classification", [{"tokens": ["a"]}], [], {}, ("'it'", "train.jsonl", "tokens and tags", "columns")),
    "tokens as text": ("token-classification", [{"tokens": "a b", "tags": "O O"}], [], {}, ("row 1", "list")),
    "span outside": (
        "token-classification",
        [{"text": "abc", "spans": [{"start": 1, "end": 9, "type": "x"}]}],
        [],
        SPANS,
        ("row 1", "1 to 9", "3 characters"),
    ),
    "span without type": (
        "token-classification",
        [{"text": "abc", "spans": [{"start": 1, "end": 2}]}],
        [],
        SPANS,
        ("row 1", "start, end and type"),
    ),
    "span of texts": (
        "token-classification",
        [{"text": "abc", "spans": [{"start": "1", "end": "2", "type": "x"}]}],
        [],
        SPANS,
        ("row 1", "whole numbers"),
    ),
    "spans no list": ("token-classification", [{"text": "abc", "spans": "x"}], [], SPANS, ("row 1", "'x'", "list")),
    "pair without second column": ("pair-classification", sentiment_rows(2), [], {}, ("train.jsonl", "'text_pair'", "columns")),
    "labels no list": ("multilabel", [{"text": "a", "label": 3}] * 2, [], {}, ("row 1", "3", "list")),
}


@pytest.mark.parametrize(("kind", "train", "test", "task", "pieces"), TRAIN.values(), ids=TRAIN)
def test_rows(kind, train, test, task, pieces, experiment_values, write_experiment, tmp_path, fails):
    for name, rows in {"train": train, "validation": train, "test": test or train}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "it", "kind": kind, "data": "{split}.jsonl", **task}
    fails("run", write_experiment(experiment_values | {"tasks": [task]}), pieces=pieces)
