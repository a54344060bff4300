"""The plain tables of a grid mark what is out of the common budget, and say how many cells are behind a column."""

from __future__ import annotations

import json

from conftest import sentiment_rows, splits

import mtl
from mtl.report.write import read_folder, tables_of, write_all


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
