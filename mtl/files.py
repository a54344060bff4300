"""Files that are whole or not there: atomic writes, JSON, and folders for one process at a time."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtl.errors import CheckpointError, MTLError, did_you_mean


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then move it to ``path``: a reader never sees half a file.

    Raises:
        CheckpointError: If the file cannot be written, for example on a full disk. What was at ``path``
            before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, MTLError):
            raise
        raise CheckpointError(f"{path} cannot be written: {error}. Is the disk full? What was there before is kept.") from error


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left. Call it with the folder :func:`locked`."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def to_json(value: Any) -> str:
    """Return indented JSON; NaN, which JSON does not have, becomes null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_json_line(value: Any) -> str:
    """Return JSON on one line; NaN becomes null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write :func:`to_json` atomically."""
    write_text(path, to_json(value))


def read_json(path: Path, error: type[MTLError]) -> Any:
    """Read a JSON file.

    Raises:
        MTLError: Of the type ``error``, naming the file, if it is missing or torn.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise error(f"{path} cannot be read: {cause}") from cause


def why_no_file(path: Path) -> str:
    """Say why ``path`` is not a file: its folder is missing, or it is a folder; and name the nearest file."""
    if path.is_dir():
        return f"{path} is a folder, not a file."
    if not path.parent.is_dir():
        return f"There is no file {path}: there is no folder {path.parent}."
    near = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return f"There is no file {path}. {near}".rstrip()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of ``folder``. A killed process leaves no lock behind.

    Raises:
        CheckpointError: If another process holds the folder.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{folder} is in use by another process. Wait for it, or give this run another name."
            ) from error
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
