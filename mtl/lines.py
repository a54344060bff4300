"""Reading what ``mtl predict`` is asked: texts or JSON objects, one a line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.errors import DataError
from mtl.files import why_no_file

if TYPE_CHECKING:
    from mtl.kind import TaskKind

_CHUNK_LINES = 1024


def name_of(source: str) -> str:
    """Name a source for people; ``-`` is standard input."""
    return "standard input" if source == "-" else source


def read_rows(source: str) -> Iterator[Any]:
    """Yield the lines of a file or of standard input: JSON objects where they are such, else texts."""
    if source != "-" and (not Path(source).exists() or Path(source).is_dir()):
        raise DataError(f"--input: {why_no_file(Path(source))}")
    # Bytes that are not UTF-8 are let through here and refused below, where the line is known.
    if source == "-" and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    with sys.stdin if source == "-" else Path(source).open(encoding="utf-8", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            text, where = line.removeprefix("\ufeff").strip(), f"{name_of(source)}, line {number}"
            if not text:
                raise DataError(f"{where} is empty. Remove it, so that answers and lines stay in step.")
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise DataError(f"{where} is not UTF-8. Convert the file to UTF-8.")
            yield _parse(text, where)


def _parse(text: str, where: str) -> Any:
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} starts like a JSON object and is none: {error.msg} (column {error.colno}).") from error


def chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    """Yield lists of rows that are answered together."""
    chunk: list[Any] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK_LINES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def asking(kind: TaskKind, bundle: Path, plugins: Sequence[str] | None) -> str:
    """Return a command that asks a bundle something that a kind can read.

    Args:
        kind: Of one of its tasks.
        bundle: Its folder.
        plugins: Those that were named on the command line.
    """
    read = [role for role, must in kind.roles.items() if must and role not in kind.target_roles]
    asked = "your text" if kind.readable(["text"]) else json.dumps(dict.fromkeys(read, "…"), ensure_ascii=False)
    return " ".join([f"echo '{asked}' | mtl predict {bundle}", *(f"--plugin {plugin}" for plugin in plugins or ())])
