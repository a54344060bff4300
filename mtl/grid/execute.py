"""Running the cells of a grid: none twice, none lost, and a process that dies costs its own cell alone."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from mtl.errors import GridError
from mtl.grid.backend import Backend
from mtl.grid.cell import Cell, run_cell

_LOG = logging.getLogger(__name__)
#: Cells are long and few: one at a time to each process, so that little is lost with one.
_SENDING = {"batch_size": 1, "pre_dispatch": "n_jobs"}


class Watch(Protocol):
    """Shows a person how a grid gets on."""

    def grid(self, cells: Sequence[Cell], attempt: str) -> AbstractContextManager[object]:
        """Show the cells until the context ends."""


def execute(
    cells: Sequence[Cell], backend: Backend, *, jobs: int | None, threads: int, plugins: Sequence[str], watch: Watch | None = None
) -> None:
    """Run every cell that is not finished; those that failed before are tried again.

    A cell that raises is written down as failed, and the others go on. If a process dies, what it was doing is not known to
    joblib: every cell that had begun is run again by itself, from its last checkpoint, and one whose process dies again
    has failed.

    Args:
        cells: The cells.
        backend: Where they are run.
        jobs: Cells at a time; ``None`` for as many as fit.
        threads: Threads of a cell.
        plugins: Plugins that are not installed.
        watch: Shows progress.

    Raises:
        GridError: If the backend cannot be reached, or its processes cannot run a cell at all.
    """
    attempt = uuid.uuid4().hex
    todo = list({cell.folder: cell for cell in cells if not cell.finished}.values())
    for cell in todo:
        cell.forget_failure()
    with watch.grid(cells, attempt) if watch else nullcontext():
        while waiting := [cell for cell in todo if cell.state(attempt) == "waiting"]:
            orders = [cell.order(attempt, plugins, threads) for cell in waiting]
            died = _send(orders, backend, jobs, threads)
            suspects = [cell for cell in waiting if cell.state(attempt) == "running"]
            if died is not None and not suspects and all(cell.state(attempt) == "waiting" for cell in waiting):
                raise GridError(
                    f"No cell could be begun: {_told(died)} Do the processes have the same mtl and plugins, and do they reach "
                    f"{waiting[0].folder.parent} by that path?"
                ) from died
            for cell in suspects:
                _LOG.warning("%s: its process may have died; it is run again by itself", cell.name)
                died = _send([cell.order(attempt, plugins, threads)], backend, 2, threads)
                if cell.state(attempt) == "running":
                    cell.fail(f"Its process died twice: {_told(died)} Is there enough memory? --jobs 1 needs the least.")


def threads_of(cells: Sequence[Cell]) -> int:
    """Return the threads of a cell: what the experiment says, else one.

    The number is the same however many cells run at a time, as sums may come out differently with another one.
    """
    return max(cell.config.threads or 1 for cell in cells)


def _send(orders: Sequence[dict[str, object]], backend: Backend, jobs: int | None, threads: int) -> Exception | None:
    """Have cells run, and return what broke if a process died."""
    from joblib import Parallel, delayed

    with backend.connect(jobs, threads):
        try:
            Parallel(**_SENDING)(delayed(run_cell)(**order) for order in orders)
        except Exception as error:  # every backend has its own; cells do not raise
            _LOG.warning("a process of the grid died: %s", _told(error))
            return error
    return None


def _told(error: Exception | None) -> str:
    text = " ".join(str(error).split()) if error else "it ended without a word"
    return f"{type(error).__name__ if error else 'nothing'}: {text[:300].rstrip('.')}."
