"""Matrices of affinity, by hand."""

from __future__ import annotations

import pytest
from grids import points_of, run

from mtl.compare.affinity import gradient_cosines, transfer_gains
from mtl.compare.columns import columns_of
from mtl.compare.figures import of_targets


def test_cosines_are_means_over_looks():
    first = {"tasks": ["a", "b"], "cosines": [[1.0, 0.2], [0.2, 1.0]]}
    second = {"tasks": ["b", "a", "c"], "cosines": [[1.0, 0.4, -0.5], [0.4, 1.0, -0.1], [-0.5, -0.1, 1.0]]}
    matrix = gradient_cosines([first, second])
    assert matrix.rows == ["a", "b", "c"]
    assert matrix.values[0] == pytest.approx([1.0, 0.3, -0.1])
    # Means with the others: a (0.3 − 0.1) / 2 = 0.1, b (0.3 − 0.5) / 2 = −0.1, c (−0.1 − 0.5) / 2 = −0.3.
    assert matrix.suggestion == (
        "A suggestion, to be tried: keep a; leave out b (-0.100), c (-0.300), whose mean cosine is negative."
    )


def test_without_looks_there_is_no_matrix():
    assert gradient_cosines([]) is None


def test_what_a_source_alone_has_gained_by_hand():
    def figures(value):
        return {"bank": {"prototype": {"1": [value], "5": [value + 0.1]}}}

    none = run("none", targets={"none": figures(0.5)})
    single = run("single", targets={"travel": figures(0.6), "work": figures(0.4)})
    methods = of_targets(columns_of(points_of([none, single]), [none, single]))
    matrix = transfer_gains(methods, "none")
    assert (matrix.rows, matrix.columns) == (["travel", "work"], ["bank"])
    assert [row[0] for row in matrix.values] == pytest.approx([0.1, -0.1])
    assert "keep travel; leave out work (-0.100)" in matrix.suggestion
    assert matrix.suggestion.startswith("A suggestion")


def test_one_source_has_no_matrix():
    none = run("none", targets={"none": {"bank": {"prototype": {"1": [0.5]}}}})
    assert transfer_gains(of_targets(columns_of(points_of([none]), [none])), "none") is None


def test_a_source_is_measured_by_the_adaptation_of_the_baseline():
    def figures(value):
        return {"bank": {"prototype": {"1": [value]}, "full": {"1": [value + 0.3]}}}

    none = run("none", targets={"none": figures(0.5)})
    single = run("single", targets={"travel": figures(0.6), "work": figures(0.4)})
    methods = of_targets(columns_of(points_of([none, single]), [none, single]))
    for base in ("none, prototype", "none, full"):
        assert [row[0] for row in transfer_gains(methods, base).values] == pytest.approx([0.1, -0.1])
