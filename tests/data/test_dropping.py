from __future__ import annotations

import pytest
from conftest import sentiment_rows

import mtl
from mtl.errors import DataError

GOOD = sentiment_rows(16)
BAD = [{"text": "", "label": "good"}, {"text": "the cat", "label": None}]
STRANGE = [{"text": "the cat", "label": "goood"}]


def experiment(values, train, test, **task):
    data = {"train": train, "validation": GOOD[:4], "test": test}
    about = {"name": "mood", "kind": "classification", "data": data, **task}
    return mtl.Experiment.of(**{**values, "tasks": [about], "budget": {"epochs": 1}, "evaluation": {"times": 0}})


def test_bad_rows_are_dropped_and_counted_where_the_task_allows_it(experiment_values, caplog):
    made = experiment(experiment_values, [*GOOD, *BAD], [*GOOD[:6], *STRANGE], bad_rows="drop")
    about = made.run().runs[0]["results"]["tasks"]["mood"]
    assert about["rows"] == {"train": 16, "validation": 4, "test": 6}
    assert about["dropped"] == {"train": 2, "test": 1}
    assert "1 of 7 rows of rows of test are dropped; the first: rows of test, row 7: label 'goood'" in caplog.text


def test_bad_rows_are_errors_unless_it_does(experiment_values):
    with pytest.raises(DataError, match="rows of test, row 7: label 'goood' is not among"):
        experiment(experiment_values, GOOD, [*GOOD[:6], *STRANGE]).run()


def test_rows_that_are_all_bad_are_an_error_still(experiment_values):
    with pytest.raises(DataError, match="Task 'mood': every row of rows of test is bad. The first: rows of test, row 1"):
        experiment(experiment_values, GOOD, STRANGE * 2, bad_rows="drop").run()


def test_nothing_is_said_of_rows_that_are_good(experiment_values):
    about = experiment(experiment_values, GOOD, GOOD[:4], bad_rows="drop").run().runs[0]["results"]["tasks"]["mood"]
    assert about["dropped"] == {}
