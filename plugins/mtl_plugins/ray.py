"""Workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mtl
from mtl.errors import GridError, MissingExtraError
from mtl.grid.backend import jobs_that_fit


@dataclass
class Ray(mtl.Backend):
    """Run cells on a Ray cluster (extra ``ray``).

    Args:
        address: The head's, such as ``10.0.0.1:6379`` or ``ray://10.0.0.1:10001``. Default: Ray on this machine, for this grid
            alone.
    """

    address: str | None = None

    @contextmanager
    def connect(self, jobs: int | None, threads: int) -> Iterator[None]:
        from joblib import parallel_config

        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError as error:
            raise MissingExtraError("ray", extra="ray") from error

        cores = None if self.address else (jobs or jobs_that_fit(threads))
        try:
            ray.init(self.address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise GridError(
                f"The Ray cluster at {self.address} cannot be reached: {error}. Is it running ('ray start --head'), and is the "
                "address the one that it printed?"
            ) from error
        try:
            register_ray()
            with parallel_config("ray", n_jobs=jobs or -1):
                yield
        finally:
            ray.shutdown()
