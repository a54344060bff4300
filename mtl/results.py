"""A run's results on disk: which version they are of, and reading them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mtl.errors import MTLError
from mtl.files import read_json

RESULTS_VERSION = 3
_KEYS = {"experiment", "strategy", "tasks"}


def read_results(path: Path, error: type[MTLError]) -> dict[str, Any]:
    """Read the ``results.json`` of a run.

    Raises:
        MTLError: Of the type ``error``, if it cannot be read, is something else, or is of another version.
    """
    read = read_json(path, error)
    if not isinstance(read, dict) or ("version" not in read and not read.keys() >= _KEYS):
        raise error(f"{path} is not what mtl run writes: {', '.join(sorted(_KEYS))} are not all in it.")
    if read.get("version") != RESULTS_VERSION:
        raise error(
            f"{path} is of version {read.get('version')!r}; this mtl reads and writes version {RESULTS_VERSION}. Use another "
            "output folder, or the mtl that wrote it."
        )
    return read


def command() -> list[str]:
    """Return what this process was started with, as it may be typed again: ``python -m mtl`` is ``mtl``."""
    name = Path(sys.argv[0]).name
    return ["mtl" if name == "__main__.py" else name, *sys.argv[1:]]
