"""Memory that is freed and needed again a moment later."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
#: What they have grown to in a process that has freed large blocks; they no longer grow by themselves once one was set.
_GIVEN_BACK = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 1 << 16}


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Keep what is freed in the process, instead of giving every large block back to the system.

    The GNU C library maps each block of more than 32 MB anew, and the system clears it page by page: the attention weights of a
    batch, or the gradient of the embeddings, are then slower to allocate than to compute. The process holds some blocks more than
    it needs at once. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    for what, value in _KEPT.items():
        library.mallopt(what, value)
    try:
        yield
    finally:
        for what, value in _GIVEN_BACK.items():
            library.mallopt(what, value)
        library.malloc_trim(0)
