"""Workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mtl
from mtl.errors import GridError, MissingExtraError
from mtl.grid.backend import jobs_that_fit


@dataclass
class Dask(mtl.Backend):
    """Run cells on the workers of a Dask cluster (extra ``dask``). Start each worker with one thread.

    Args:
        address: The scheduler's, such as ``tcp://10.0.0.1:8786``. Default: a cluster on this machine, for this grid alone.
        timeout_seconds: How long the scheduler is waited for.
    """

    address: str | None = None
    timeout_seconds: float = 10.0

    @contextmanager
    def connect(self, jobs: int | None, threads: int) -> Iterator[None]:
        from joblib import parallel_config

        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtraError("distributed", extra="dask") from error

        own = {"n_workers": jobs or jobs_that_fit(threads), "threads_per_worker": 1, "dashboard_address": None}
        try:
            client = Client(self.address, timeout=self.timeout_seconds) if self.address else Client(**own)
        except (OSError, ValueError) as error:
            raise GridError(
                f"The Dask scheduler at {self.address} cannot be reached: {error}. Is it running ('dask scheduler'), and is the "
                "address the one that it printed?"
            ) from error
        with client, parallel_config("dask", n_jobs=jobs or -1):
            yield
