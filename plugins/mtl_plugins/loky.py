"""Processes on this machine."""

from __future__ import annotations

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

        with parallel_config("loky", n_jobs=jobs or jobs_that_fit(threads), inner_max_num_threads=threads):
            yield
