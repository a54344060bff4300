"""The cells of a grid: combinations, names, what is added and what is left out."""

from __future__ import annotations

import pytest

from mtl.axes import CompareConfig, asked_of, label_of
from mtl.config import validate
from mtl.errors import ConfigError

LEAST = {"encoder": "minilm", "tasks": ["a/x"]}


def points(**keys):
    return [point for point, _ in CompareConfig(**keys).points()]


def test_without_axes_there_is_one_cell_and_no_grid():
    assert points() == [{}]
    assert not CompareConfig()
    assert not CompareConfig(matched="seconds")
    assert CompareConfig(seed=[0])


def test_named_cells_are_combined_with_the_axes():
    named = {"plain": {"strategy": "joint"}, "weighed": {"strategy.weighting": "dwa", "batch.size": 8}}
    grid = validate({**LEAST, "compare": {"seed": [0, 1], "cells": named}}, "test")
    cells = grid.cells()
    assert [point for point, _ in cells] == [{"seed": seed, "cell": name} for seed in (0, 1) for name in named]
    assert [(config.strategy.options, config.batch.size) for _, config in cells[:2]] == [({}, 32), ({"weighting": "dwa"}, 8)]


def test_what_is_excluded_is_left_out_and_what_is_included_is_added():
    found = points(strategy=["none", "joint"], seed=[0, 1], exclude=[{"strategy": "none", "seed": 1}], include=[{"seed": 7}])
    assert found == [
        {"strategy": "none", "seed": 0},
        {"strategy": "joint", "seed": 0},
        {"strategy": "joint", "seed": 1},
        {"seed": 7},
    ]


def test_cells_that_are_only_included_are_all_there_are():
    assert points(include=[{"seed": 1}, {"seed": 2}]) == [{"seed": 1}, {"seed": 2}]


def test_a_label_has_the_options_of_a_choice_and_not_what_is_chance():
    assert (
        label_of({"strategy": {"name": "joint", "weighting": "dwa"}, "seed": 1, "define.SPLIT": "a"}) == "joint (weighting=dwa)"
    )
    assert label_of({"strategy": "joint", "batch.size": 8}) == "joint, 8"
    assert label_of({"strategy": {"name": "joint", "weighting": {"name": "dwa", "temperature": 2}}}) == (
        "joint (weighting=dwa (temperature=2))"
    )
    assert label_of({"seed": 1}) == ""


def test_a_long_value_is_cut_and_stays_apart_from_another_that_begins_alike():
    one, other = (label_of({"tasks": ["task"] * 30 + [end]}) for end in ("a", "b"))
    assert one != other
    assert one.startswith("task task task")
    assert len(one) == len(other) == 50


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"seed": []}, "axis 'seed' has no values"),
        ({"seed": [1], "exclude": [{"sed": 1}]}, r"no cell is at sed=1\. There is no axis 'sed'\. Did you mean 'seed'"),
        ({"seed": [1], "exclude": [{"seed": 2}]}, r"compare\.exclude\.0: no cell is at seed=2\.$"),
        ({"seed": [1], "cells": {"a": {"seed": 2}}}, r"compare\.cells\.a: 'seed' is an axis as well"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, told):
    with pytest.raises(ConfigError, match=told):
        points(**keys)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"matched": "time"}, r"compare\.matched: must be 'examples', 'passes' or 'seconds' \(found 'time'\)"),
        ({"tolerance": -1}, r"compare\.tolerance: must be at least 0"),
        ({"cells": ["a"]}, r"compare\.cells: must be a mapping"),
        ({"include": [1]}, r"compare\.include"),
        ({"seed": 3}, r"compare\.seed: must be a list \(found 3\)"),
    ],
)
def test_keys_of_the_section_are_typed(keys, told):
    with pytest.raises(ConfigError, match=told):
        validate({**LEAST, "compare": keys}, "test")


def test_what_is_asked_is_no_part_of_a_method_s_label():
    point = {"targets.tasks": ["a", "b"], "define.SPLIT": "one", "seed": 3, "strategy": "joint"}
    assert label_of(point) == "joint"
    assert asked_of(point) == ["tasks a b", "SPLIT one"]
