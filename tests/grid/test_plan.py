"""Which cells there are, how long they will take, and which cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtl.config import validate
from mtl.errors import GridError
from mtl.grid.comparable import check_declared, check_rows
from mtl.grid.plan import forecast, plan

LEAST = {"name": "small", "encoder": "minilm", "tasks": [{"name": "mood", "kind": "classification", "data": "a.csv"}]}


def cells_of(tmp_path: Path, **values):
    return plan(validate({**LEAST, "output": str(tmp_path), **values}, "test"))


def finish(cell, seconds=60.0, rows="aa"):
    """Pretend that a cell has run."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "results.json").write_text("{}")
    (cell.folder / "timing.json").write_text(json.dumps({"wall_seconds": seconds}))
    (cell.folder / "data.json").write_text(json.dumps({"mood": {"train": {"fingerprint": "x"}, "test": {"fingerprint": rows}}}))


def test_a_cell_is_named_by_its_point_and_its_folder_by_its_configuration(tmp_path):
    cells = cells_of(tmp_path, define={"SPLIT": "a"}, compare={"strategy": ["joint"], "define.SPLIT": ["a", "b"], "seed": [3]})
    assert [cell.name for cell in cells] == ["joint, SPLIT a, seed 3", "joint, SPLIT b, seed 3"]
    assert {cell.folder.parent for cell in cells} == {tmp_path / "small"}
    assert [cell.folder.name for cell in cells] == [f"joint-{cell.config.hash}" for cell in cells]


def test_the_threads_of_a_process_do_not_name_the_folder(tmp_path):
    (cell,) = cells_of(tmp_path)
    (other,) = cells_of(tmp_path, threads=7)
    assert cell.folder == other.folder


def test_what_is_kept_of_a_cells_way_may_be_torn(tmp_path):
    (cell,) = cells_of(tmp_path)
    cell.folder.mkdir(parents=True)
    (cell.folder / "attempt.json").write_text('{"att')
    assert cell.state("now") == "waiting"
    (cell.folder / "failure.json").write_text("[]")
    assert cell.state("now") == "failed"
    assert "failure.json is torn" in cell.failure


def test_time_is_known_from_cells_of_the_same_strategy_else_from_any(tmp_path):
    cells = cells_of(tmp_path, compare={"strategy": ["joint", "maml"], "seed": [0, 1, 2]})
    assert [each.seconds for each in forecast(cells)] == [None] * 6
    finish(cells[0], 60.0)
    finish(cells[1], 120.0)
    found = forecast(cells)
    # Two of joint took 60 and 120: 90 for the third, and for lack of better for maml.
    assert [each.seconds for each in found] == [0.0, 0.0, 90.0, 90.0, 90.0, 90.0]
    assert [each.like for each in found[1:4]] == ["finished", "2 of the same strategy", "2 of other strategies"]


def test_a_task_that_is_declared_in_two_ways_cannot_be_compared(tmp_path):
    other = [{**LEAST["tasks"][0], "data": "b.csv"}]
    cells = cells_of(tmp_path, compare={"tasks": [LEAST["tasks"], other]})
    with pytest.raises(GridError, match=r"cannot be compared: task 'mood' is declared in two ways\. Take the axis"):
        check_declared(cells)


def test_two_protocols_cannot_be_compared(tmp_path):
    cells = cells_of(
        tmp_path,
        targets={"tasks": ["mood"], "baselines": []},
        compare={"targets.protocol": ["domain", {"name": "episodic", "ways": 2}]},
    )
    with pytest.raises(GridError, match=r"targets\.protocol is declared in two ways"):
        check_declared(cells)


def test_a_weight_and_what_is_defined_are_no_other_question(tmp_path):
    heavy = [{**LEAST["tasks"][0], "weight": 2}]
    check_declared(cells_of(tmp_path, compare={"tasks": [LEAST["tasks"], heavy]}))
    split = [{**LEAST["tasks"][0], "data": "${SPLIT}.csv"}]
    check_declared(cells_of(tmp_path, tasks=split, define={"SPLIT": "a"}, compare={"define.SPLIT": ["a", "b"]}))


def test_other_test_rows_cannot_be_compared(tmp_path):
    cells = cells_of(tmp_path, compare={"seed": [0, 1, 2]})
    finish(cells[0], rows="aa")
    check_rows(cells)
    finish(cells[2], rows="bb")
    with pytest.raises(GridError, match=r"Cells '.*seed 0' and '.*seed 2' cannot be compared: task 'mood' has other test"):
        check_rows(cells)
