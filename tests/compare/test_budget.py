"""Budgets: what each column used, and who is out of the common one."""

from __future__ import annotations

import pytest
from grids import points_of, run, task

from mtl.compare.budget import spent
from mtl.compare.columns import columns_of
from mtl.report.findings import spent_table

TASKS = {"mood": task(0.5)}


def used(matched, **counts):
    results = [run(strategy, tasks=TASKS, **each) for strategy, each in counts.items()]
    results.append(run("none"))
    timings = {run["hash"]: {"training_seconds": {"joint": 10.0 * (place + 1)}} for place, run in enumerate(results)}
    return spent(columns_of(points_of(results), results), timings, matched, 0.1)


def test_who_used_more_than_the_median_and_the_tolerance_is_flagged():
    found = used("passes", single={"passes": 100}, joint={"passes": 105}, maml={"passes": 300})
    assert [(each.label, each.broken) for each in found] == [("single", False), ("joint", False), ("maml", True)]
    assert found[2].ratio == pytest.approx(300 / 105)


def test_what_is_not_matched_is_shown_and_not_flagged():
    found = used("examples", single={"passes": 100}, maml={"passes": 300})
    assert not any(each.broken for each in found)
    table = spent_table(found, "examples", 0.1)
    assert table.rows[1] == ["maml", "100", "300", "20", "10", "1.00", "kept"]
    assert "Matched: examples, within 10%" in table.notes[0]


def test_time_is_what_the_trainings_took():
    found = used("seconds", single={}, joint={}, maml={})
    # 10, 20 and 30 seconds: the median is 20.
    assert [each.ratio for each in found] == [0.5, 1.0, 1.5]
    assert [each.broken for each in found] == [True, False, True]


def test_who_trains_nothing_has_no_budget():
    assert spent(columns_of([{"strategy": "none"}], [run("none")]), {}, "examples", 0.1) == []
    assert spent_table([], "examples", 0.1) is None
