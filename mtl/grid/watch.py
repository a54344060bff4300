"""Progress of a grid: a live table where a terminal watches, a line for each change otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mtl.grid.cell import Cell, State

_LOG = logging.getLogger(__name__)
_EVERY_SECONDS = 1.0
_STYLES: dict[State, str] = {"waiting": "dim", "running": "cyan", "finished": "green", "failed": "red"}


class Lines:
    """Logs what becomes of each cell."""

    @contextmanager
    def grid(self, cells: Sequence[Cell], attempt: str) -> Iterator[None]:
        """Look at the cells once a second, from a thread of its own."""
        ended = threading.Event()
        known: dict[str, State] = {cell.name: cell.state(attempt) for cell in cells}
        done = sum(state == "finished" for state in known.values())
        _LOG.info("%d cells, %d of them finished", len(cells), done)

        def look() -> None:
            for cell in cells:
                state = cell.state(attempt)
                if state != known[cell.name]:
                    known[cell.name] = state
                    reason = f": {cell.failure}" if state == "failed" else ""
                    _LOG.info("%s: %s%s", cell.name, state, reason)

        def watch() -> None:
            while not ended.wait(_EVERY_SECONDS):
                look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            look()


class LiveTable:
    """A table of the cells on standard error that is drawn again once a second."""

    @contextmanager
    def grid(self, cells: Sequence[Cell], attempt: str) -> Iterator[None]:
        """Draw until the context ends."""
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        shown = CellTable(cells, attempt, lambda: max(5, console.height - 6))
        with Live(shown, console=console, refresh_per_second=1 / _EVERY_SECONDS):
            yield


class CellTable:
    """What rich draws: cells in work and failed ones first, as many rows as there is room for.

    Args:
        cells: The cells.
        attempt: Of the grid.
        room: Returns the rows that fit.
    """

    def __init__(self, cells: Sequence[Cell], attempt: str, room: Any) -> None:
        self._cells, self._attempt, self._room = list({cell.folder: cell for cell in cells}.values()), attempt, room

    def __rich__(self) -> Any:
        """Look at the cells' folders, and make the table."""
        from rich.table import Table
        from rich.text import Text

        states = {cell.folder: cell.state(self._attempt) for cell in self._cells}
        counts = {state: sum(found == state for found in states.values()) for state in _STYLES}
        title = f"{counts['finished']} of {len(self._cells)} finished, {counts['running']} running, {counts['failed']} failed"
        table = Table(title=title, title_justify="left")
        for column in ("cell", "state", "minutes", "where"):
            table.add_column(column, overflow="fold")
        order: list[State] = ["running", "failed", "waiting", "finished"]
        cells = sorted(self._cells, key=lambda cell: order.index(states[cell.folder]))
        for cell in cells[: self._room()]:
            state, begun = states[cell.folder], cell.begun(self._attempt)
            minutes = f"{(time.time() - begun['started']) / 60:.1f}" if begun and state == "running" else ""
            where = str(begun["host"]) if begun else ""
            told = cell.failure if state == "failed" else where
            table.add_row(Text(cell.name), Text(state, style=_STYLES[state]), minutes, Text(told or ""))
        if len(cells) > self._room():
            table.caption = f"and {len(cells) - self._room()} more"
        return table
