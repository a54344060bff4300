"""The transfer stage: targets kept apart from sources, options chosen without them, baselines beside every method."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from conftest import rating_rows, splits
from toys import ANIMALS, MOODS, load, load_tiny, topic_rows, topic_splits, with_shared_texts

import mtl
import mtl.transfer.stage as stage_module
from mtl.compare.bootstrap import estimate
from mtl.components import Builder
from mtl.config import validate
from mtl.errors import ConfigError, DataError
from mtl.grid.plan import with_baselines
from mtl.plugins import load_plugins
from mtl.transfer.stage import Stage

TOPIC = {"name": "topic", "kind": "classification", "data": topic_splits()}
MOOD = {"name": "mood", "kind": "classification", "data": MOODS}
OTHER = {"name": "other", "kind": "classification", "data": topic_splits(labels=("flew", "ran", "sat"))}


@pytest.fixture
def encoder(encoder_folder):
    return load_tiny(encoder_folder)


@pytest.fixture
def values(encoder_folder, tmp_path):
    """A quick experiment: moods are trained, topics are the target."""
    return {
        "name": "quick",
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [MOOD, TOPIC],
        "targets": {"tasks": ["topic"], "shots": [2], "protocol": {"name": "domain", "draws": 3}},
        "episodes": {"ways": 2, "shots": 2, "queries": 2},
        "budget": {"examples_per_task": 32},
        "batch": {"size": 8},
        "evaluation": {"times": 1},
        "threads": 1,
        "output": str(tmp_path / "runs"),
    }


def make_stage(values, folder, **targets):
    config = validate({**values, "targets": {**values["targets"], **targets}}, "test")
    return Stage(config, Builder(load_plugins()), folder)


def strategy_of(stage, name):
    return stage.build("strategy", validate({**stage.config.model_dump(mode="json"), "strategy": name}, "test").strategy)


def test_what_was_left_out_is_counted_in_the_results_and_not_trained(values):
    tasks = [{**MOOD, "data": with_shared_texts()}, TOPIC]
    values = {**values, "tasks": tasks, "targets": {**values["targets"], "overlap": "drop", "baselines": []}}
    (run,) = mtl.Experiment.of(**{**values, "budget": {"epochs": 1}}).run().runs
    assert run["results"]["overlaps"] == {"mood": {"topic": 2}}
    assert run["results"]["tasks"]["mood"]["examples_seen"] == 30


def test_a_class_of_source_and_target_is_refused_where_classes_must_be_new(encoder, values, tmp_path):
    def kept(**targets):
        protocol = {"name": "episodic", "ways": 2, "queries": 1, "episodes": 2}
        stage = make_stage(values, tmp_path, **{"protocol": protocol, **targets})
        stage.prepare([load(encoder, topic_splits())], [])
        other = {"train": topic_rows(8, ("dog", "flew"), 500), "test": topic_rows(4, ("dog", "flew"), 600)}
        return stage.keep_apart({"mood": load(encoder, other, name="mood")})

    with pytest.raises(DataError, match=r"Class 'dog' is in source 'mood' and in target 'topic' \(1 classes"):
        kept()
    with pytest.raises(DataError, match="Class 'dog'"):
        kept(overlap="drop")  # a class cannot be left out of a source's head
    assert list(kept(overlap="allow")) == ["mood"]
    assert list(kept(protocol={"name": "domain", "draws": 1})) == ["mood"]


def test_queries_that_their_own_support_has_are_counted(encoder, values, tmp_path, caplog):
    rows = topic_splits()
    rows["test"][0] = {**rows["train"][0], "text": rows["train"][0]["text"].upper() + "!"}
    protocol = {"name": "domain", "draws": 4}
    stage = make_stage(values, tmp_path, shots=[10], protocol=protocol)  # of ten rows a class all are learned from, each time
    with caplog.at_level(logging.WARNING, logger="mtl.transfer"):
        stage.prepare([load(encoder, rows)], [])
    assert stage.overlaps == {"topic": {"topic": 4}}
    assert "task topic: 4 of 48 queries have the words of a row of their own support" in caplog.text
    assert make_stage(values, tmp_path, protocol=protocol).overlaps == {}


def prepared(encoder, values, folder, validation, **targets):
    """A stage whose target are the topics, with a task of meta-validation."""
    stage = make_stage(values, folder, validation=["other"], **targets)
    stage.prepare([load(encoder, topic_splits())], [load(encoder, validation, name="other")])
    return stage


def test_a_class_of_validation_and_target_is_refused_where_classes_must_be_new(encoder, values, tmp_path):
    protocol = {"name": "episodic", "ways": 2, "queries": 1, "episodes": 2}
    other = {"train": topic_rows(8, ("DOG", "flew"), 500), "test": topic_rows(8, ("DOG", "flew"), 600)}
    told = r"Class 'DOG' is in validation task 'other' and as 'dog' in target 'topic' \(1 classes .* Take other validation tasks"
    for overlap in ("error", "drop"):
        with pytest.raises(DataError, match=told):
            prepared(encoder, values, tmp_path, other, protocol=protocol, overlap=overlap)
    prepared(encoder, values, tmp_path, other, protocol=protocol, overlap="allow")
    prepared(encoder, values, tmp_path, other)  # another domain may have the same classes


def test_a_text_of_validation_and_target_is_refused_or_left_out_of_validation(encoder, values, tmp_path):
    target = topic_splits()
    other = topic_splits(labels=("flew", "ran", "sat"))
    other["train"][4] = {"text": target["test"][0]["text"].upper(), "label": "ran"}
    other["test"][2] = {"text": target["train"][7]["text"], "label": "sat"}
    other["validation"][0] = {"text": target["train"][8]["text"], "label": "flew"}  # in no episode of this protocol
    with pytest.raises(DataError, match=r"of validation task 'other' is also in target 'topic' \(2 rows .* out of validation"):
        prepared(encoder, values, tmp_path, other)
    dropped = prepared(encoder, values, tmp_path, other, overlap="drop")
    assert dropped.overlaps == {"other": {"topic": 2}}
    (kept,) = dropped.validation
    left = [row["text"] for split in ("train", "test") for row in other[split]]
    assert [request for (request,) in kept.pool.requests] == [text for row, text in enumerate(left) if row not in (4, 30 + 2)]
    assert all(row < 40 for episode in kept.manifest.episodes[2] for row in (*episode.support, *episode.query))
    allowed = prepared(encoder, values, tmp_path, other, overlap="allow")
    assert allowed.overlaps == {"other": {"topic": 2}}
    assert len(allowed.validation[0].pool) == 42
    # Numbers mean other rows, so the episodes of the one are not those of the other.
    assert len(list(tmp_path.glob("other-*.json"))) == 2


def test_validation_that_is_the_target_by_another_name_is_refused(encoder, values, tmp_path):
    with pytest.raises(DataError, match="Task 'other': every row of .* is also in a target"):
        prepared(encoder, values, tmp_path, topic_splits(), overlap="drop")


def test_the_untouched_and_the_jointly_trained_encoder_stand_beside_every_method(values):
    values["targets"]["adaptation"] = ["inner-loop", "ridge"]
    finished = mtl.Experiment.of(**values, strategy="maml").run()
    assert [run["point"] for run in finished.runs] == [{"strategy": name} for name in ("none", "joint", "maml")]
    figures = {}
    for run in finished.runs:
        (found,) = run["results"]["targets"].values()
        figures[run["point"]["strategy"]] = found["figures"]["topic"]
        assert found["metric"] == {"topic": "accuracy"}
    # The baselines have practised no inner loop: nearest prototypes stand in for it.
    assert {name: list(by_label) for name, by_label in figures.items()} == {
        "none": ["prototype", "ridge"],
        "joint": ["prototype", "ridge"],
        "maml": ["inner-loop", "ridge"],
    }
    assert {len(values["2"]) for by_label in figures.values() for values in by_label.values()} == {3}
    (manifest,) = (finished.folder / "manifests").glob("*.json")  # one for all three
    assert json.loads(manifest.read_text())["target"] == "topic"
    # The same budget: 32 examples for the one source. Episodes of 2 ways with 2 shots and 2 queries are of 8 rows.
    assert [run["results"]["models"] for run in finished.runs][1]["joint"]["examples"] == 32
    assert [run["results"]["models"] for run in finished.runs][2]["joint"]["examples"] == 32
    assert "hierarchical bootstrap" in str(finished)
    # Differences, paired by episode, are to each of the two.
    written = {path.stem.rpartition("differences-to-")[2] for path in (finished.folder / "report").glob("*differences-to*.csv")}
    assert written == {"none-prototype", "joint-prototype"}
    told = json.loads((finished.folder / "report" / "findings.json").read_text())
    assert (told["findings"][-1]["baseline"], told["beside"][0]["baseline"]) == ("none, prototype", "joint, prototype")


def test_baselines_that_are_asked_for_anyway_are_run_once(values):
    points = [point for point, _ in with_baselines(validate(values, "test").cells())]
    assert points == [{"strategy": "none"}, {"strategy": "joint"}]
    seeds = validate({**values, "compare": {"strategy": ["maml", "none"], "seed": [0, 1]}}, "test")
    found = [tuple(point.values()) for point, _ in with_baselines(seeds.cells())]
    assert sorted(found) == sorted((name, seed) for name in ("none", "joint", "maml") for seed in (0, 1))
    none = validate({**values, "strategy": "maml", "targets": {**values["targets"], "baselines": []}}, "test")
    assert [config.strategy.name for _, config in with_baselines(none.cells())] == ["maml"]


def test_options_are_chosen_on_validation_tasks_before_a_target_is_looked_at(encoder, values, tmp_path, monkeypatch):
    looked_at, scores = [], {0.1: 0.4, 1.0: 0.9, 10.0: 0.6}

    class Watched(stage_module.Space):
        def __init__(self, encoder, target, pool, **options):
            looked_at.append(("space", target.name))
            super().__init__(encoder, target, pool, **options)

    def measured(space, episode, adaptation):
        looked_at.append(("measure", space.target.name))
        return scores[adaptation.penalty]

    def transferred(space, manifest, adaptation):
        looked_at.append(("transfer", space.target.name))
        return {"2": [adaptation.penalty]}, {"confusion_matrix": "whatever"}

    monkeypatch.setattr(stage_module, "Space", Watched)
    monkeypatch.setattr(stage_module, "measure", measured)
    monkeypatch.setattr(stage_module, "transfer", transferred)
    tune = {"ridge.penalty": [0.1, 1.0, 10.0]}
    stage = make_stage(values, tmp_path, adaptation="ridge", validation=["other"], tune=tune, validation_episodes=2)
    stage.check(strategy_of(stage, "joint"))
    stage.prepare([load(encoder, topic_splits())], [load(encoder, OTHER["data"], name="other")])
    found = stage.run(encoder, strategy_of(stage, "joint"), lambda text: None)
    assert found["chosen"] == {"ridge": {"name": "ridge", "penalty": 1.0}}
    assert found["figures"] == {"topic": {"ridge": {"2": [1.0]}}}
    assert found["looked_at"] == {"topic": {"ridge": {"confusion_matrix": "whatever"}}}
    # Three values, each on two of the three episodes.
    assert looked_at == [("space", "other"), *[("measure", "other")] * 6, ("space", "topic"), ("transfer", "topic")]


def test_every_combination_of_options_is_tried(values, tmp_path):
    stage = make_stage(values, tmp_path, adaptation={"name": "prototype", "scale": 3}, validation=["other"])
    tune = {"prototype.metric": ["cosine", "euclidean"], "prototype.scale": [1, 2], "ridge.penalty": [1]}
    found = [choice.options for choice in stage_module._candidates(stage.targets_config.adaptation[0], tune)]
    assert found == [{"metric": metric, "scale": scale} for metric in ("cosine", "euclidean") for scale in (1, 2)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tune": {"prototype.scale": [1]}}, "options are chosen on meta-validation tasks, and there are none"),
        ({"tune": {"prototype.scal": [1]}, "validation": ["other"]}, "unknown option 'scal'"),
        ({"tune": {"ridge.penalty": [1]}, "validation": ["other"]}, "'ridge.penalty' is not adaptation.option"),
        ({"tune": {"prototype.scale": []}, "validation": ["other"]}, "has no values"),
        ({"adaptation": "rigde"}, "Unknown adaptation 'rigde'"),
        (
            {"adaptation": [{"name": "prototype", "name_weight": 1}, "ridge"], "shots": [0, 1]},
            "adaptation 'ridge' has nothing",
        ),
        ({"adaptation": "logistic", "shots": [0]}, "with 0 shots adaptation 'logistic' has nothing to learn from"),
    ],
)
def test_names_and_options_are_checked_before_anything_slow(values, tmp_path, changes, told):
    stage = make_stage(values, tmp_path, **changes)
    joint = strategy_of(make_stage(values, tmp_path), "joint")
    with pytest.raises(mtl.MTLError, match=told):
        stage.check(joint)


@pytest.mark.parametrize(
    ("names", "strategy", "able"), [(True, "protonet", True), (False, "protonet", False), (True, "maml", False)]
)
def test_an_inner_loop_at_0_shots_must_have_practised_with_names(values, tmp_path, names, strategy, able):
    stage = make_stage(
        {**values, "episodes": {**values["episodes"], "names": names}}, tmp_path, adaptation="inner-loop", shots=[0, 1]
    )
    told = pytest.raises(ConfigError, match="with 0 shots adaptation 'inner-loop' has nothing to learn from")
    with nullcontext() if able else told:
        stage.check(strategy_of(stage, strategy))


@pytest.mark.parametrize(
    ("strategy", "adaptation"), [("joint", {"name": "logistic", "name_weight": 1}), ("protonet", "inner-loop")]
)
def test_with_0_shots_the_untouched_encoder_reads_names_too(values, strategy, adaptation):
    values["targets"] |= {"adaptation": adaptation, "shots": [0, 1], "baselines": ["none"]}
    names = {**values["episodes"], "names": strategy == "protonet"}
    untouched, trained = mtl.Experiment.of(**{**values, "episodes": names}, strategy=strategy).run().runs
    (found,) = untouched["results"]["targets"].values()
    assert found["chosen"]["prototype"] == {"name": "prototype", "name_weight": 1.0}
    for run in (untouched, trained):
        (found,) = run["results"]["targets"].values()
        assert all(by_shots["0"] for by_shots in found["figures"]["topic"].values())


def test_what_needs_classes_is_refused_for_values_before_training(encoder, values, tmp_path):
    ratings = load(encoder, splits(rating_rows(32)), "regression", name="rate")
    for targets, validation in (([ratings], []), ([], [ratings])):
        with pytest.raises(ConfigError, match="Adaptation 'prototype' needs classes, and target 'rate' has values. Use ridge"):
            make_stage(values, tmp_path, adaptation=["ridge", "prototype"]).prepare(targets, validation)


def test_each_target_has_the_simplest_reading_of_its_own_kind(encoder, values, tmp_path):
    ratings = load(encoder, splits(rating_rows(32)), "regression", name="rate")
    stage = make_stage(values, tmp_path, adaptation="inner-loop", validation=["rate"])
    stage.prepare([load(encoder, topic_splits()), ratings], [])
    found = stage.run(encoder, strategy_of(stage, "none"), lambda text: None)
    assert {name: list(by_label) for name, by_label in found["figures"].items()} == {"topic": ["prototype"], "rate": ["ridge"]}


def test_every_value_to_choose_from_must_go_with_the_encoder(encoder, values, tmp_path):
    tuned = {"adaptation": ["top-layers", "inner-loop"], "validation": ["other"]}
    make_stage(values, tmp_path, **tuned, tune={"top-layers.layers": [1, 2]}).check_encoder(encoder)
    with pytest.raises(ConfigError, match="the last 3 layers are asked for, but the encoder has 2"):
        make_stage(values, tmp_path, **tuned, tune={"top-layers.layers": [1, 3]}).check_encoder(encoder)


def test_the_inner_loop_that_was_not_practised_is_replaced_by_prototypes(encoder, values, tmp_path):
    stage = make_stage(values, tmp_path, adaptation="inner-loop")
    stage.prepare([load(encoder, topic_splits())], [])
    for name in ("joint", "none"):
        found = stage.run(encoder, strategy_of(stage, name), lambda text: None)
        assert found["chosen"] == {"prototype": {"name": "prototype"}}
    with pytest.raises(ConfigError, match="'joint' has practised none"):
        stage.adaptation(stage.targets_config.adaptation[0], strategy_of(stage, "joint"))


def test_the_untouched_encoder_always_has_its_simplest_reading(encoder, values, tmp_path):
    stage = make_stage(values, tmp_path, adaptation="ridge")
    stage.prepare([load(encoder, topic_splits())], [])
    found = stage.run(encoder, strategy_of(stage, "none"), lambda text: None)
    assert list(found["chosen"]) == ["prototype", "ridge"]
    assert list(stage.run(encoder, strategy_of(stage, "joint"), lambda text: None)["chosen"]) == ["ridge"]


def test_for_values_the_simplest_reading_is_ridge(encoder, values, tmp_path):
    stage = make_stage(values, tmp_path, adaptation="inner-loop")
    stage.prepare([load(encoder, splits(rating_rows(32)), "regression")], [])
    for name in ("none", "joint"):
        assert list(stage.run(encoder, strategy_of(stage, name), lambda text: None)["chosen"]) == ["ridge"]


@pytest.mark.parametrize(
    ("adaptation", "labels"),
    [
        (["ridge", {"name": "ridge", "penalty": 5}, "ridge"], ["ridge", "ridge penalty=5"]),
        ([{"name": "ridge", "penalty": 2}, {"name": "ridge", "penalty": 5}], ["ridge penalty=2", "ridge penalty=5"]),
        ([{"name": "ridge", "penalty": 2}, "prototype"], ["ridge", "prototype"]),
    ],
)
def test_an_adaptation_is_told_from_another_by_its_options(encoder, values, tmp_path, adaptation, labels):
    stage = make_stage(values, tmp_path, adaptation=adaptation)
    stage.prepare([load(encoder, topic_splits())], [])
    found = stage.run(encoder, strategy_of(stage, "joint"), lambda text: None)
    assert list(found["figures"]["topic"]) == labels


def test_other_episodes_have_other_manifests_and_other_methods_the_same(encoder, values, tmp_path):
    target = load(encoder, topic_splits())

    def names(**changes):
        targets = {**values["targets"], **changes.pop("targets", {})}
        make_stage({**values, **changes, "targets": targets}, tmp_path).prepare([target], [])
        return {path.name for path in tmp_path.glob("*.json")}

    first = names()
    assert len(first) == 1
    assert names(strategy="maml", targets={"adaptation": "full", "overlap": "drop"}) == first
    assert len(names(seed=1)) == 2
    assert len(names(targets={"shots": [2, 4]})) == 3
    assert len(names(targets={"protocol": {"name": "domain", "draws": 4}})) == 4


def test_weights_are_chosen_by_transfer_to_validation_tasks(values):
    values["targets"] |= {"validation": ["other"], "baselines": [], "validation_episodes": 2}
    values["evaluation"] = {"times": 2}
    (run,) = mtl.Experiment.of(**{**values, "tasks": [MOOD, TOPIC, OTHER]}, strategy="protonet").run().runs
    lines = [json.loads(line) for line in (Path(run["folder"]) / "models/joint/log.jsonl").read_text().splitlines()]
    looks = [line["validation"] for line in lines if "validation" in line]
    assert [list(look) for look in looks] == [["other"], ["other"]]
    assert 0 <= looks[0]["other"]["accuracy"] <= 1


def test_what_has_practised_nothing_is_looked_at_by_nearest_prototypes(values):
    values["targets"] |= {"validation": ["other"], "adaptation": "inner-loop", "baselines": [], "validation_episodes": 2}
    (run,) = mtl.Experiment.of(**{**values, "tasks": [MOOD, TOPIC, OTHER]}, strategy="joint").run().runs
    assert list(run["results"]["targets"]["joint"]["figures"]["topic"]) == ["prototype"]


def test_without_validation_tasks_an_episodic_strategy_is_looked_at_by_transfer_to_its_sources(encoder, values, tmp_path):
    stage = make_stage(values, tmp_path)
    sources = {"mood": load(encoder, MOODS, name="mood")}
    assert stage.evaluator(sources, strategy_of(stage, "joint")) is None  # by the validation splits and the heads
    assert stage.evaluator(sources, strategy_of(stage, "maml")) is not None


def test_a_run_says_once_which_classes_are_in_no_episode(values, caplog):
    rare = [{"text": f"awful awful {n}", "label": "awful"} for n in range(3)]  # of the four rows that an episode needs
    task = {**MOOD, "data": {**MOODS, "train": [*MOODS["train"], *rare]}}
    del values["targets"]  # the validation split is looked at by episodes too
    with caplog.at_level(logging.WARNING, logger="mtl"):
        mtl.Experiment.of(**{**values, "tasks": [task]}, strategy="protonet").run()
    (record,) = [found for found in caplog.records if "in no episode" in found.getMessage()]
    assert record.getMessage().startswith("task mood: 1 of 3 classes have fewer than the 4 rows")
    assert record.getMessage().endswith("the first: 'awful', which has 3")


def test_the_figures_of_a_run_are_those_of_its_episodes(encoder, values, tmp_path):
    stage = make_stage(values, tmp_path, shots=[1, 5], protocol={"name": "domain", "draws": 8})
    stage.prepare([load(encoder, topic_splits())], [])
    found = stage.run(encoder, strategy_of(stage, "none"), lambda text: None)["figures"]["topic"]["prototype"]
    assert {shots: len(figures) for shots, figures in found.items()} == {"1": 8, "5": 8}
    assert all(0 <= figure <= 1 for figures in found.values() for figure in figures)
    assert estimate(found["5"]).mean >= 0.6  # chance is 1/3
    assert np.mean(found["5"]) >= np.mean(found["1"])


def test_a_validation_task_may_come_with_supports_of_its_own(values, tmp_path):
    for task, labels in (("topic", ANIMALS[:3]), ("other", ("flew", "ran", "sat"))):
        text = "".join(json.dumps(row) + "\n" for row in topic_rows(6, labels, 700))
        (tmp_path / f"{task}_2_0.jsonl").write_text(text)
    protocol = {"name": "supports", "path": str(tmp_path / "{task}_{shots}_{split}.jsonl"), "splits": 1}
    values["targets"] |= {"protocol": protocol, "validation": ["other"], "baselines": []}
    (run,) = mtl.Experiment.of(**{**values, "tasks": [MOOD, TOPIC, OTHER]}).run().runs
    assert len(run["results"]["targets"]["joint"]["figures"]["topic"]["prototype"]["2"]) == 1
