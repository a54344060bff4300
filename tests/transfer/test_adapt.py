"""A bundle learns a new task from a few rows, and transfer of bundles is measured, on the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from conftest import changed, sentiment_rows, splits

import mtl
from mtl.cli import main
from mtl.config import Choice
from mtl.plugins import load_plugins
from mtl.transfer.adapt import adaptation_for

TOPICS = ["cat", "dog", "mat"]


def topic_rows(count, offset=0):
    return [{"text": f"the {TOPICS[n % 3]} is fine {n + offset}", "label": TOPICS[n % 3]} for n in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder_folder):
    """A run with a joint and a run with an episodic strategy, on the same two tasks."""
    folder = tmp_path_factory.mktemp("trained")
    values = {
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [
            {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))},
            {
                "name": "colour",
                "kind": "classification",
                "data": splits([{**r, "label": r["label"] * 2} for r in sentiment_rows(64)]),
            },
        ],
        "episodes": {"ways": 2, "shots": 2, "queries": 2},
        "budget": {"epochs": 1},
        "evaluation": {"times": 1},
        "threads": 1,
        "output": str(folder),
    }
    found = {}
    for strategy in ({"name": "joint"}, {"name": "anil", "steps": 30, "rate": 0.05, "head": "learned"}, {"name": "protonet"}):
        finished = mtl.Experiment.of(**values, name=strategy["name"], strategy=strategy).run()
        found[strategy["name"]] = finished.folder
    return found


@pytest.fixture
def support(tmp_path):
    path = tmp_path / "support.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in topic_rows(9)))
    return path


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mtl", *map(str, arguments)])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("joint", []),
        ("joint", ["--adaptation", "ridge", "--set", "penalty=0.1"]),
        ("joint", ["--adaptation", "full", "--set", "steps=3"]),
        ("joint", ["--adaptation", "logistic"]),
        ("anil", []),
        ("protonet", []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_bundle_learns_a_new_task_and_predicts_it(trained, support, tmp_path, monkeypatch, capsys, strategy, options):
    made = tmp_path / "made"
    out = call(
        monkeypatch, capsys, "adapt", trained[strategy], "--support", support, "--name", "topic", "--output", made, *options
    )
    assert "topic" in out
    answers = mtl.load_bundle(made).predict([row["text"] for row in topic_rows(9)], ["topic"])
    assert {answer["topic"]["label"] for answer in answers} <= set(TOPICS)
    right = sum(answer["topic"]["label"] == row["label"] for answer, row in zip(answers, topic_rows(9), strict=True))
    assert right > 3  # of 9, on what it has learned from


@pytest.mark.parametrize(("adaptation", "seen"), [("full", ["mood", "colour", "topic"]), ("ridge", ["mood", "colour"])])
def test_what_moves_the_encoder_is_a_training_too(trained, support, tmp_path, monkeypatch, capsys, adaptation, seen):
    options = ("--name", "topic", "--output", tmp_path / "made", "--adaptation", adaptation)
    call(monkeypatch, capsys, "adapt", trained["joint"], "--support", support, *options)
    found = mtl.load_bundle(tmp_path / "made").trained
    assert list(found) == seen
    assert [(found[name].classes, len(found[name].texts)) for name in seen[2:]] == [(tuple(TOPICS), 9)] * len(seen[2:])


def test_a_bundle_that_has_learned_in_episodes_has_nothing_to_predict_until_it_has_a_head(trained, fails, tmp_path):
    (tmp_path / "ask.txt").write_text("the cat is good\n")
    fails("predict", trained["anil"], "--input", tmp_path / "ask.txt", pieces=("'anil'", "no heads", "mtl adapt"))


def test_the_other_heads_answer_as_before_if_the_encoder_was_not_moved(trained, support, tmp_path, monkeypatch, capsys):
    made = tmp_path / "made"
    call(monkeypatch, capsys, "adapt", trained["joint"], "--support", support, "--name", "topic", "--output", made)
    before, after = mtl.load_bundle(trained["joint"]), mtl.load_bundle(made)
    assert set(after.tasks) == {"mood", "colour", "topic"}
    assert after.predict(["the cat is good"], ["mood"]) == before.predict(["the cat is good"], ["mood"])


def test_a_moved_encoder_keeps_only_the_head_that_was_made_with_it(trained, support, tmp_path, monkeypatch, capsys):
    made = tmp_path / "made"
    options = ["--adaptation", "full", "--set", "steps=2", "--set", "rate=0.01"]
    call(monkeypatch, capsys, "adapt", trained["joint"], "--support", support, "--name", "topic", "--output", made, *options)
    before, after = mtl.load_bundle(trained["joint"]), mtl.load_bundle(made)
    assert list(after.tasks) == ["topic"]
    pairs = zip(before.model.encoder.parameters(), after.model.encoder.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_low_rank_updates_are_folded_into_the_weights_of_the_new_bundle(trained, support, tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft", reason="needs the extra lora")
    made = tmp_path / "made"
    options = ["--adaptation", "lora", "--set", "steps=20", "--set", "rate=0.01", "--set", "rank=2"]
    call(monkeypatch, capsys, "adapt", trained["joint"], "--support", support, "--name", "topic", "--output", made, *options)
    before, after = (mtl.load_bundle(place).model.encoder for place in (trained["joint"], made))
    assert after.adapters is None
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert list(old) == list(new)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name.rsplit(".", 2)[1] for name in moved} == {"query", "value"}
    for name in moved:
        assert torch.linalg.matrix_rank(new[name].double() - old[name].double(), rtol=1e-4) == 2
    answers = mtl.load_bundle(made).predict([row["text"] for row in topic_rows(9)])
    assert [answer["topic"]["label"] for answer in answers] == [row["label"] for row in topic_rows(9)]


def test_an_inner_loop_goes_on_as_it_was_trained(trained, support, tmp_path, monkeypatch, capsys):
    """The learned start of the head is in the bundle."""
    practice = mtl.load_bundle(trained["anil"]).practice
    assert practice.strategy.name == "anil"
    assert practice.state["learned"]["start:classification:32"].abs().max() > 0


def test_a_bundle_adapts_with_the_options_that_it_was_measured_with_first(trained):
    bundle = mtl.load_bundle(trained["joint"])
    measured = {"ridge penalty=2": Choice(name="ridge", penalty=2), "ridge penalty=5": Choice(name="ridge", penalty=5)}
    bundle.practice = replace(bundle.practice, chosen=measured)
    plugins = load_plugins()
    assert adaptation_for(bundle, Choice(name="ridge"), plugins).penalty == 2
    assert adaptation_for(bundle, Choice(name="ridge", penalty=3), plugins).penalty == 3
    assert adaptation_for(bundle, Choice(name="prototype"), plugins).name_weight == 0


def test_transfer_of_bundles_stands_beside_the_untouched_encoder(trained, encoder_folder, tmp_path, monkeypatch, capsys):
    values = {
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [{"name": "topic", "kind": "classification", "data": splits(topic_rows(48))}],
        "targets": {"tasks": ["topic"], "shots": [2], "protocol": {"name": "domain", "draws": 3}, "adaptation": "inner-loop"},
        "threads": 1,
        "output": str(tmp_path / "runs"),
    }
    path = tmp_path / "topics.yaml"
    path.write_text(json.dumps(values))
    out = call(
        monkeypatch, capsys, "transfer", path, "-b", trained["anil"], "-b", trained["protonet"], "-b", trained["joint"], "--json"
    )
    runs = json.loads(out)["runs"]
    assert [run["point"]["strategy"] for run in runs] == ["none", "anil", "protonet", "joint"]
    chosen = [next(iter(run["results"]["targets"].values()))["chosen"] for run in runs]
    assert [list(found) for found in chosen] == [["prototype"], ["inner-loop"], ["inner-loop"], ["prototype"]]
    figures = [next(iter(run["results"]["targets"].values()))["figures"]["topic"] for run in runs]
    assert all(len(found["2"]) == 3 for by in figures for found in by.values())


@pytest.fixture
def transfer(trained, encoder_folder, tmp_path):
    """Measure transfer of a bundle by the experiment that it is of, with a new target and what else is asked for."""

    def measure(bundle, sources=True, **targets):
        values = {
            "encoder": {"name": str(encoder_folder), "max_length": 32},
            "tasks": [{"name": "topic", "kind": "classification", "data": splits(topic_rows(48))}],
            "targets": {"tasks": ["topic"], "shots": [2], "protocol": {"name": "domain", "draws": 3}, **targets},
            "budget": {"examples_per_task": 8},
            "evaluation": {"times": 0},
            "threads": 1,
            "output": str(tmp_path / "runs"),
        }
        if sources:
            values["tasks"].append({"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))})
        finished = mtl.Experiment.of(**values).transfer([trained[bundle]])
        return {run["point"]["strategy"]: run for run in finished.runs}

    return measure


def test_transfer_of_a_bundle_stands_beside_joint_training_on_the_sources(transfer, caplog):
    first = transfer("protonet", adaptation="ridge")
    assert list(first) == ["none", "protonet", "joint"]
    joint = first["joint"]["results"]
    assert joint["tasks"]["mood"]["examples_seen"] == 8
    assert list(joint["targets"]["joint"]["chosen"]) == ["ridge"]  # the same adaptation as the bundle
    assert transfer("protonet", adaptation="ridge")["joint"] == first["joint"]  # its seconds too: it was not trained again
    assert not caplog.records


def test_joint_training_is_not_done_again_where_it_has_been_or_is_not_asked_for(transfer):
    assert list(transfer("joint")) == ["none", "joint"]
    assert list(transfer("protonet", baselines=["none"])) == ["none", "protonet"]
    assert list(transfer("protonet", baselines=[])) == ["none", "protonet"]


def test_without_sources_a_warning_says_that_joint_training_is_not_there(transfer, caplog):
    assert list(transfer("protonet", sources=False)) == ["none", "protonet"]
    (record,) = caplog.records
    assert record.getMessage().startswith("joint is not beside the bundles: the experiment lists no task to train it on")
    caplog.clear()
    assert list(transfer("joint", sources=False)) == ["none", "joint"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (["--name", "mood"], ("'mood'", "--name")),
        (["--name", "x", "--kind", "clasification"], ("'clasification'", "classification")),
        (["--name", "x", "--adaptation", "inner-loop"], ("inner loop", "prototype")),
        (["--name", "x", "--adaptation", "matching"], ("support", "ridge")),
        (["--name", "x", "--adaptation", "soft-k-means"], ("all together", "prototype")),
        (["--name", "x", "--adaptation", "ridge", "--set", "penalti=1"], ("'penalti'", "penalty")),
        (["--name", "x", "--set", "penalty=1"], ("--adaptation",)),
        (["--name", "x", "--adaptation", "ridge", "--set", "penalty=["], ("--set penalty=[", "not valid YAML")),
        (["--name", "x", "--column", "text"], ("role=column",)),
        (["--name", "x", "--column", "text=texts"], ("'texts'",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_wrong_adapt_says_what_to_do(trained, support, tmp_path, fails, arguments, pieces):
    fails("adapt", trained["joint"], "--support", support, "--output", tmp_path / "made", *arguments, pieces=pieces)


def test_a_folder_with_other_things_is_not_written_into_and_a_bundle_not_over_itself(trained, support, tmp_path, fails):
    (tmp_path / "notes.txt").write_text("mine")
    arguments = ["--support", support, "--name", "x", "--output"]
    fails("adapt", trained["joint"], *arguments, tmp_path, pieces=(f"--output {tmp_path}: it is there", "Name a new folder"))
    itself = trained["joint"] / "models" / "joint"
    fails("adapt", trained["joint"], *arguments, itself, pieces=("the bundle to start from",))
    fails("export", trained["joint"], "--output", tmp_path, pieces=("it is there",))


def test_the_hint_names_plugins_and_what_a_pair_needs(trained, tmp_path, monkeypatch, capsys):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"text": f"the {word}", "text_pair": f"a {word}", "label": label} for word, label in (("cat", "x"), ("dog", "y"))]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    plugin = tmp_path / "nothing.py"
    plugin.write_text("import mtl\n\n@mtl.hookimpl\ndef mtl_run_start(run):\n    pass\n")
    options = ["--name", "same", "--kind", "pair-classification", "--output", tmp_path / "made", "--plugin", plugin]
    out = call(monkeypatch, capsys, "adapt", trained["joint"], "--support", pairs, *options)
    assert """echo '{"text": "…", "text_pair": "…"}' | mtl predict""" in out
    assert f"--plugin {plugin} --task same" in out


def test_an_empty_support_is_refused(trained, tmp_path, fails):
    (tmp_path / "empty.jsonl").write_text("")
    arguments = ["--support", tmp_path / "empty.jsonl", "--name", "x", "--output", tmp_path / "made"]
    fails("adapt", trained["joint"], *arguments, pieces=("empty.jsonl", "no rows"))


def test_transfer_without_targets_is_refused(trained, experiment_values, write_experiment, fails):
    fails("transfer", write_experiment(changed(experiment_values, {})), "-b", trained["joint"], pieces=("targets",))
