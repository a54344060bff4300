"""The plain tables of a grid mark what is out of the common budget, and say how many cells are behind a column."""

from __future__ import annotations

import json
import re

import pytest
from conftest import sentiment_rows, splits

import mtl
from mtl.errors import BundleError
from mtl.report.write import read_folder, tables_of, write_all
from mtl.results import RESULTS_VERSION, read_results


def test_what_is_out_of_the_budget_is_marked_in_every_plain_table(encoder_folder, tmp_path):
    experiment = mtl.Experiment.of(
        name="marked",
        encoder={"name": str(encoder_folder), "max_length": 32},
        tasks=[{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))}],
        budget={"epochs": 1},
        batch={"size": 8},
        evaluation={"times": 1},
        output=str(tmp_path),
    )
    finished = experiment.over({"budget.epochs": [1, 2, 6]}).compare(jobs=1)
    (finished.folder / "report" / "cells-without-results-1-of-3.csv").write_text("cell,why")
    comparison, results = read_folder(finished.folder)
    tables = tables_of(finished.folder, comparison, results)
    assert tables
    for table in tables:
        heads = " ".join(table.columns)
        assert "6 ‡" in heads
        assert "1 ‡" in heads
        assert "2 ‡" not in heads
        assert any(note.startswith("‡ out of the common budget") for note in table.notes)
    shown = json.loads((finished.folder / "report" / "findings.json").read_text(encoding="utf-8"))
    assert [each["broken"] for each in shown["budgets"]] == [True, False, True]
    write_all(finished.folder, comparison, results)
    assert not list((finished.folder / "report").glob("cells-without-results*"))  # of an earlier report
    assert list((finished.folder / "report").glob("*.csv"))


RESULTS = {
    "version": RESULTS_VERSION,
    "experiment": "e",
    "strategy": "joint",
    "tasks": {"mood": {"metric": "accuracy", "higher_is_better": True, "value": 0.5, "skill": None}},
    "models": {},
    "targets": {},
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"strategy": ...}, "'strategy' is not in it"),
        ({"tasks": []}, "'tasks' is not in it, or is of another type"),
        ({"tasks": {"mood": {"value": 0.5}}}, "'metric' of task 'mood'"),
        ({"tasks": {"mood": RESULTS["tasks"]["mood"] | {"value": "x"}}}, "'value' of task 'mood'"),
        ({"tasks": {"mood": 3}}, "task 'mood' is no mapping"),
    ],
)
def test_results_that_no_run_has_written_are_refused(tmp_path, changed, told):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS))
    assert read_results(path, BundleError) == RESULTS
    path.write_text(json.dumps({key: value for key, value in (RESULTS | changed).items() if value is not ...}))
    with pytest.raises(BundleError, match=re.escape(told)):
        read_results(path, BundleError)


@pytest.mark.parametrize("cells", [3, [{"point": {}}], ["a"]])
def test_a_comparison_that_no_grid_has_written_is_refused(tmp_path, cells):
    (tmp_path / "comparison.json").write_text(json.dumps({"experiment": "e", "axes": {}, "cells": cells}))
    with pytest.raises(BundleError, match="is not what mtl writes"):
        read_folder(tmp_path)


def test_of_a_folder_of_runs_those_below_it_are_named(tmp_path):
    with pytest.raises(BundleError, match=r"Has the run finished\?"):
        read_folder(tmp_path)
    for name in "ab":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "results.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "runs"):
        with pytest.raises(BundleError, match=r"Name one of those below it: \S+runs/a, \S+runs/b\.$"):
            read_folder(folder)
