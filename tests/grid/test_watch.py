"""What a person sees of a grid while it runs."""

from __future__ import annotations

import io
import json
import logging
import time

from mtl.config import validate
from mtl.grid.plan import plan
from mtl.grid.watch import CellTable, Lines


def cells_of(tmp_path):
    values = {"name": "small", "encoder": "minilm", "tasks": ["a"], "output": str(tmp_path), "compare": {"seed": [0, 1, 2, 3]}}
    cells = plan(validate(values, "test"))
    for cell in cells[:3]:
        cell.folder.mkdir(parents=True)
    (cells[0].folder / "results.json").write_text("{}")
    began = {"attempt": "this", "host": "here", "process": 1, "started": time.time() - 120}
    (cells[1].folder / "attempt.json").write_text(json.dumps(began))
    cells[2].fail("no memory")
    return cells


def test_the_table_shows_each_state_with_work_at_the_top(tmp_path):
    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    console.print(CellTable(cells_of(tmp_path), "this", lambda: 10))
    text = console.export_text()
    assert "1 of 4 finished, 1 running, 1 failed" in text
    states = [word for word in ("running", "failed", "waiting", "finished") if f" {word} " in text]
    assert [line for line in text.splitlines() if "2.0" in line and "here" in line]
    assert states == ["running", "failed", "waiting", "finished"]
    assert "no memory" in text


def test_a_table_that_is_longer_than_the_terminal_says_how_many_more(tmp_path):
    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    console.print(CellTable(cells_of(tmp_path), "this", lambda: 3))
    assert "and 1 more" in console.export_text()


def test_a_cell_that_was_begun_in_another_attempt_waits(tmp_path):
    assert [cell.state("other") for cell in cells_of(tmp_path)] == ["finished", "waiting", "failed", "waiting"]


def test_without_a_terminal_each_change_is_a_line(tmp_path, caplog):
    cells = cells_of(tmp_path)
    with caplog.at_level(logging.INFO, "mtl.grid"), Lines().grid(cells, "this"):
        (cells[1].folder / "results.json").write_text("{}")
        cells[3].folder.mkdir(parents=True)
        cells[3].fail("nor here")
    assert caplog.messages[0] == "4 cells, 1 of them finished"
    assert [message.partition(": ")[2] for message in caplog.messages[1:]] == ["finished", "failed: nor here"]
