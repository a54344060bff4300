"""A run's results on disk: which version they are of, and reading them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl.errors import MTLError
from mtl.files import read_json

RESULTS_VERSION = 3
_KEYS = {"experiment": str, "strategy": str, "tasks": dict, "models": dict, "targets": dict}
_TASK_KEYS = {"metric": str, "higher_is_better": bool, "value": float | int | None, "skill": float | int | None}


def read_results(path: Path, error: type[MTLError]) -> dict[str, Any]:
    """Read the ``results.json`` of a run.

    Raises:
        MTLError: Of the type ``error``, if it cannot be read, is something else, or is of another version.
    """
    read: Any = read_json(path, error)
    if isinstance(read, dict) and "version" in read and read["version"] != RESULTS_VERSION:
        raise error(
            f"{path} is of version {read.get('version')!r}; this mtl reads and writes version {RESULTS_VERSION}. Use another "
            "output folder, or the mtl that wrote it."
        )
    faults = _faults(read, _KEYS, "") or [
        fault for name, task in read["tasks"].items() for fault in _faults(task, _TASK_KEYS, name)
    ]
    if faults:
        raise error(f"{path} is not what mtl run writes: {faults[0]}. Remove it, and the run goes on from its models.")
    found: dict[str, Any] = read
    return found


def _faults(read: Any, keys: Mapping[str, Any], task: str) -> list[str]:
    """Return what is missing in a mapping, or of another type."""
    of = f" of task {task!r}" if task else ""
    if not isinstance(read, dict):
        return [f"what is read{of} is no mapping"]
    return [
        f"{key!r}{of} is not in it, or is of another type"
        for key, kind in keys.items()
        if not isinstance(read.get(key, ...), kind)
    ]


def command() -> list[str]:
    """Return what this process was started with, as it may be typed again: ``python -m mtl`` is ``mtl``."""
    name = Path(sys.argv[0]).name
    return ["mtl" if name == "__main__.py" else name, *sys.argv[1:]]
