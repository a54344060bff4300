"""Arrays that grow on disk and are read memory-mapped, and token files of that sort."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtl.data.features import Ragged
from mtl.errors import DataError
from mtl.metrics import Array

#: The names that safetensors has for types.
_TYPES = {"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}
_TYPES |= {"float64": "F64", "float32": "F32"}
_ALIGNMENT = 8
_PART = 1 << 16  # numbers that are written at once


class Spool:
    """An array that grows on disk, part by part, in a file without a name: a killed process leaves nothing behind.

    Args:
        folder: Where there is room. Default: the system's folder of temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it lives as long as the array
        self._like: Array | None = None
        self._rows = 0

    def append(self, part: Array) -> None:
        """Add rows, ``[rows, ...]``; the first part says of which type and form they are.

        Raises:
            DataError: If there is no room.
        """
        if self._like is None:
            self._like = np.empty((0, *part.shape[1:]), dtype=part.dtype)
        try:
            np.ascontiguousarray(part, dtype=self._like.dtype).tofile(self._file)
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            raise DataError(
                f"{place}: tokens cannot be written: {error}. Make room there, or set MTL_CACHE to another folder."
            ) from error
        self._rows += len(part)

    @property
    def like(self) -> Array:
        """An array of the same type and form, without rows."""
        return np.empty(0, dtype=np.int64) if self._like is None else self._like

    @property
    def shape(self) -> tuple[int, ...]:
        """How large it is now."""
        return (self._rows, *self.like.shape[1:])

    def copy_to(self, stream: Any) -> None:
        """Write the bytes of all rows to ``stream``."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, stream, 2**20)

    def mapped(self, *, writable: bool = False) -> Array:
        """Return the array, memory-mapped, and read-only if it is not to be ``writable``."""
        if not np.prod(self.shape):
            return np.empty(self.shape, dtype=self.like.dtype)
        self._file.flush()
        return np.asarray(np.memmap(self._file, self.like.dtype, mode="r+" if writable else "r", shape=self.shape))


class RaggedSpool:
    """Lists of different lengths that grow on disk; see :class:`Spool`."""

    def __init__(self, folder: Path | None) -> None:
        self.values, self.offsets = Spool(folder), Spool(folder)
        self.offsets.append(np.zeros(1, dtype=np.int64))
        self._end = self._fill = 0

    def append(self, part: Ragged) -> None:
        """Add lists."""
        self.values.append(part.values)
        self.offsets.append(part.offsets[1:] + self._end)
        self._end, self._fill = self._end + len(part.values), part.fill

    def mapped(self) -> Ragged:
        """Return the lists, memory-mapped and read-only."""
        return Ragged(self.values.mapped(), self.offsets.mapped(), self._fill)


class Columns:
    """Columns of a kind that grow on disk, dense or ragged."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._columns: dict[str, Any] = {}

    def append(self, part: Mapping[str, Array | Ragged]) -> None:
        """Add rows to every column."""
        for name, values in part.items():
            if name not in self._columns:
                self._columns[name] = RaggedSpool(self._folder) if isinstance(values, Ragged) else Spool(self._folder)
            self._columns[name].append(values)

    def mapped(self) -> dict[str, Array | Ragged]:
        """Return the columns, memory-mapped and read-only."""
        return {name: column.mapped() for name, column in self._columns.items()}


def permutation(size: int, rng: np.random.Generator, folder: Path | None) -> Array:
    """Return what ``rng.permutation(size)`` is, memory-mapped; see :class:`Spool`."""
    spool = Spool(folder)
    for start in range(0, size, _PART):
        spool.append(np.arange(start, min(start + _PART, size)))
    order = spool.mapped(writable=True)
    rng.shuffle(order)
    return order


def write_safetensors(path: Path, spools: Mapping[str, Spool]) -> None:
    """Write arrays that have grown on disk as safetensors, without holding them in memory."""
    ordered = sorted(spools.items(), key=lambda item: (-item[1].like.dtype.itemsize, item[0]))
    header, start = {}, 0
    for name, spool in ordered:
        end = start + int(np.prod(spool.shape)) * spool.like.dtype.itemsize
        header[name] = {"dtype": _TYPES[str(spool.like.dtype)], "shape": list(spool.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, spool in ordered:
            spool.copy_to(stream)


def map_safetensors(path: Path) -> dict[str, Array]:
    """Return the arrays of a safetensors file, memory-mapped and read-only.

    Raises:
        OSError: If it is torn.
        ValueError: Likewise.
        KeyError: Likewise.
    """
    types = {code: name for name, code in _TYPES.items()}
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            raise OSError(f"{path} is torn")
        header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    arrays = {}
    for name, about in header.items():
        kind, shape, start = np.dtype(types[about["dtype"]]), tuple(about["shape"]), 8 + length + about["data_offsets"][0]
        if not np.prod(shape):
            arrays[name] = np.empty(shape, dtype=kind)
        else:
            arrays[name] = np.asarray(np.memmap(path, kind, mode="r", offset=start, shape=shape))
    return arrays
