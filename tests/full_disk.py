"""A disk that is full, for tests of what writes to it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def room_for_files(most_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``most_bytes``: a write fails as on a full disk, with an ``OSError``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
