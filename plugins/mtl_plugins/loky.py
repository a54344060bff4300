"""Processes on this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mtl
from mtl.grid.backend import jobs_that_fit


@dataclass
class Loky(mtl.Backend):
    """Run cells in processes on this machine, by joblib's loky; one at a time without a second process."""

    @contextmanager
    def connect(self, jobs: int | None, threads: int) -> Iterator[None]:
        from joblib import parallel_config

        count = jobs or jobs_that_fit(threads)
        begun = {"initializer": end_with, "initargs": (os.getpid(),)} if count > 1 else {}
        with parallel_config("loky", n_jobs=count, inner_max_num_threads=threads, **begun):
            yield


def end_with(parent: int) -> None:
    """Let this process end with the one that has started it, which may be killed: its cells go on when the grid does."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
