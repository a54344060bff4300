"""Memory that is freed and needed again a moment later."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 << 10, _MMAP_MAX: 1 << 16}


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Keep what is freed in the process, instead of giving every large block back to the system.

    The GNU C library maps each block of more than 32 MB anew, and the system clears it page by page: the attention weights of a
    batch, or the gradient of the embeddings, are then slower to allocate than to compute. Other libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    tune = getattr(library, "mallopt", None)
    if tune is None or not hasattr(library, "malloc_trim"):
        yield
        return
    tune(_TRIM_THRESHOLD, 2**31 - 1)
    tune(_MMAP_MAX, 0)
    try:
        yield
    finally:
        for what, value in _DEFAULTS.items():
            tune(what, value)
        library.malloc_trim(0)
