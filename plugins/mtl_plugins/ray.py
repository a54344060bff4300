"""Workers of a Ray cluster."""

from __future__ import annotations

import logging
import socket
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
        timeout_seconds: How long the head is waited for.
    """

    address: str | None = None
    timeout_seconds: float = 10.0

    @contextmanager
    def connect(self, jobs: int | None, threads: int) -> Iterator[None]:
        from joblib import parallel_config

        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError as error:
            raise MissingExtraError("ray", extra="ray") from error

        if self.address:
            _check_reachable(self.address, self.timeout_seconds)
        cores = None if self.address else (jobs or jobs_that_fit(threads))
        ray.init(self.address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            register_ray()
            with parallel_config("ray", n_jobs=jobs or -1):
                yield
        finally:
            ray.shutdown()


def _check_reachable(address: str, timeout_seconds: float) -> None:
    """Check that somebody listens: Ray itself waits for minutes, and cannot be interrupted while it does.

    Raises:
        GridError: If nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # a name that Ray knows, such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout_seconds).close()
    except OSError as error:
        raise GridError(
            f"The Ray cluster at {address} cannot be reached: {error}. Is it running ('ray start --head'), and is the address "
            "the one that it printed?"
        ) from error
