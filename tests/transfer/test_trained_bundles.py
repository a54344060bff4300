"""A bundle says what it was trained on, and targets are compared with that when its transfer is measured."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
from toys import MOODS, topic_splits, with_shared_texts

import mtl
from mtl.errors import CheckpointError, DataError
from mtl.model.bundle import load_bundle
from mtl.model.export import export
from mtl.model.trained import TRAINED_FILE

MOOD = {"name": "mood", "kind": "classification", "data": MOODS}
EPISODIC = {"name": "episodic", "ways": 2, "queries": 1, "episodes": 2}


def values_of(encoder_folder, output):
    return {
        "name": "quick",
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "budget": {"examples_per_task": 8},
        "batch": {"size": 8},
        "evaluation": {"times": 0},
        "threads": 1,
        "output": str(output),
    }


@pytest.fixture(scope="module")
def trained(encoder_folder, tmp_path_factory):
    """A bundle that was trained on moods."""
    output = tmp_path_factory.mktemp("trained")
    finished = mtl.Experiment.of(**values_of(encoder_folder, output), tasks=[MOOD], strategy="joint").run()
    return finished.folder / "models" / "joint"


@pytest.fixture
def old(trained, tmp_path):
    """The same as earlier versions wrote it."""
    folder = shutil.copytree(trained, tmp_path / "old")
    (folder / TRAINED_FILE).unlink()
    about = json.loads((folder / "bundle.json").read_text())
    del about["trained"]
    (folder / "bundle.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def overlaps(encoder_folder, tmp_path):
    """Measure the transfer of a bundle to topics, and return what its results have of overlaps."""

    def measure(bundle, data, tasks=(), **targets):
        chosen = {"tasks": ["topic"], "shots": [2], "protocol": {"name": "domain", "draws": 1}, "baselines": [], **targets}
        topic = {"name": "topic", "kind": "classification", "data": data}
        experiment = mtl.Experiment.of(**values_of(encoder_folder, tmp_path / "runs"), tasks=[topic, *tasks], targets=chosen)
        _, measured = experiment.transfer([bundle]).runs
        return measured["results"]["overlaps"]

    return measure


def with_a_text_of_train():
    """Topics of which a test row is a training text of the moods, written otherwise."""
    rows = topic_splits()
    rows["test"][1] = {"text": MOODS["train"][5]["text"].upper() + "!", "label": "dog"}
    return rows


def test_a_target_that_shares_nothing_with_what_a_bundle_was_trained_on_is_measured(trained, overlaps):
    for protocol in ({"name": "domain", "draws": 1}, EPISODIC):
        assert overlaps(trained, topic_splits(), protocol=protocol) == {}


def test_the_transfer_of_a_bundle_is_that_of_its_run(encoder_folder, tmp_path):
    """What was practised is the bundle's and not the file's: its names, and what its meta-validation has chosen."""
    tasks = [MOOD, {"name": "topic", "kind": "classification", "data": topic_splits()}]
    tasks.append({"name": "other", "kind": "classification", "data": topic_splits(labels=("flew", "ran", "sat"))})
    targets = {
        "tasks": ["topic"],
        "shots": [1],
        "protocol": {"name": "domain", "draws": 8},
        "adaptation": ["inner-loop", "ridge"],
    }
    targets |= {"baselines": []}
    values = values_of(encoder_folder, tmp_path / "runs")
    episodes = {"ways": 2, "shots": 1, "queries": 1, "names": True}
    tuned = {**targets, "validation": ["other"], "tune": {"ridge.penalty": [30.0, 20.0]}}
    run = mtl.Experiment.of(**values, tasks=tasks, targets=tuned, episodes=episodes, strategy="protonet").run()
    (trained,) = (of_run["results"]["targets"]["joint"] for of_run in run.runs)
    plain = {**values, "output": str(tmp_path / "other")}
    _, measured = mtl.Experiment.of(**plain, tasks=tasks[1:2], targets=targets).transfer([run.folder / "models" / "joint"]).runs
    (found,) = measured["results"]["targets"].values()
    assert found["figures"] == trained["figures"]
    assert found["chosen"]["ridge"] == trained["chosen"]["ridge"] != {"name": "ridge"}


@pytest.mark.parametrize("overlap", ["error", "drop"])
def test_a_target_with_a_text_that_a_bundle_was_trained_on_is_refused(trained, overlaps, overlap):
    told = r"'BAD BAD PARIS 2!' of target 'topic' was a training text of source 'mood' of the bundle \(1 rows"
    with pytest.raises(DataError, match=told):
        overlaps(trained, with_a_text_of_train(), overlap=overlap)


def test_texts_that_a_bundle_was_trained_on_are_counted_where_they_are_allowed(trained, overlaps):
    assert overlaps(trained, with_a_text_of_train(), overlap="allow") == {"mood": {"topic": 1}}


@pytest.mark.parametrize("overlap", ["error", "drop"])
def test_a_target_with_a_class_that_a_bundle_was_trained_on_is_refused_where_classes_must_be_new(trained, overlaps, overlap):
    rows = topic_splits(labels=("Good", "dog", "cat"))
    with pytest.raises(DataError, match=r"Class 'good' is in source 'mood' of the bundle and as 'Good' in target 'topic'"):
        overlaps(trained, rows, protocol=EPISODIC, overlap=overlap)
    assert overlaps(trained, rows, protocol=EPISODIC, overlap="allow") == {}  # no text is shared
    assert overlaps(trained, rows, overlap=overlap) == {}  # another domain may have the same classes


def test_of_a_bundle_that_does_not_say_what_it_was_trained_on_one_warning_says_so(old, overlaps, caplog):
    with caplog.at_level(logging.WARNING, logger="mtl.transfer"):
        assert overlaps(old, with_a_text_of_train()) == {}
    (record,) = caplog.records
    assert record.getMessage().startswith("bundle of 'joint': it does not say what it was trained on")
    assert load_bundle(old).trained is None


@pytest.mark.parametrize(("bundle", "found"), [("trained", {}), ("old", {"other": {"topic": 2}})])
def test_sources_that_a_file_lists_stand_in_only_for_what_a_bundle_does_not_say(request, overlaps, bundle, found):
    listed = [{"name": "other", "kind": "classification", "data": with_shared_texts()}]
    assert overlaps(request.getfixturevalue(bundle), topic_splits(), listed, overlap="allow") == found


def test_a_bundle_that_says_what_it_was_trained_on_gives_no_warning(trained, overlaps, caplog):
    with caplog.at_level(logging.WARNING, logger="mtl.transfer"):
        overlaps(trained, topic_splits())
    assert caplog.records == []


def test_the_hashes_must_be_there_where_a_bundle_names_its_sources(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "torn")
    (folder / TRAINED_FILE).unlink()
    with pytest.raises(CheckpointError, match=TRAINED_FILE):
        load_bundle(folder)


def test_a_run_s_bundle_leaves_out_what_was_dropped_from_training(encoder_folder, tmp_path):
    targets = {"tasks": ["topic"], "shots": [2], "protocol": {"name": "domain", "draws": 1}, "overlap": "drop", "baselines": []}
    topic = {"name": "topic", "kind": "classification", "data": with_a_text_of_train()}
    experiment = mtl.Experiment.of(**values_of(encoder_folder, tmp_path), tasks=[MOOD, topic], targets=targets, strategy="joint")
    seen = load_bundle(experiment.run().folder).trained
    assert {name: (source.classes, len(source.texts)) for name, source in seen.items()} == {"mood": (("bad", "good"), 31)}


def test_an_exported_bundle_says_it_too(trained, tmp_path):
    export(load_bundle(trained), tmp_path / "whole")
    before, after = load_bundle(trained).trained, load_bundle(tmp_path / "whole").trained
    assert list(after) == ["mood"]
    assert after["mood"].classes == ("bad", "good")
    assert len(after["mood"].texts) == 32
    assert after["mood"].texts.tolist() == before["mood"].texts.tolist()
