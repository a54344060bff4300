"""States that leave the frozen layers, kept on disk: computed once for every sequence, for all runs and processes."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mtl.errors import EncoderError

if TYPE_CHECKING:
    from mtl.metrics import Array

_LOG = logging.getLogger(__name__)
#: A pass has so many sequences of one length, so that what comes out does not depend on what else was asked for.
_ROWS, _TOKENS = 16, 8
_READERS = 512
#: What a process that has opened a store holds locked, so that no other one removes it; the store's bound is in it.
_IN_USE = "in-use"
#: A process may open a store once only, whoever asks for it: the store, and what is locked.
_OPEN: dict[Path, tuple[Any, IO[str]]] = {}


class KeptStates:
    """A memory-mapped store of states, found by the sequence's tokens.

    A store belongs to one set of frozen weights, one depth and one precision; its folder is named by them. It may be read
    and written by several processes at once, and a killed one leaves it whole. What does not fit is computed each time.
    Whoever opens a store removes others that no process has open, the one opened or written longest ago first, while all
    together take more than the largest bound that any of them was opened with.

    Args:
        folder: Folder of all stores.
        key: Of the weights, the depth and the precision.
        hidden: Size of a state.
        most_bytes: The most that the store may take; of two that are given in one process, the later one.

    Raises:
        EncoderError: If the folder cannot be used, or so much cannot be addressed.
    """

    def __init__(self, folder: Path, key: str, hidden: int, most_bytes: int) -> None:
        import lmdb

        self.folder, self.hidden = folder / key, hidden
        self._full = False
        try:
            if self.folder not in _OPEN:
                _OPEN[self.folder] = self._open(most_bytes)
            self._store, _ = _OPEN[self.folder]
            self._store.set_mapsize(most_bytes)  # where more is taken already, LMDB lets that be the bound
        except (lmdb.Error, OSError) as error:
            for opened in _OPEN.pop(self.folder, ()):
                opened.close()
            raise EncoderError(
                f"encoder.cache: {self.folder} cannot be opened: {error}. Make room there, set MTL_CACHE to another folder, or "
                "set encoder.cache to 0."
            ) from error

    def _open(self, most_bytes: int) -> tuple[Any, IO[str]]:
        import fcntl

        import lmdb

        options: dict[str, Any] = {"map_size": most_bytes, "max_readers": _READERS, "readahead": False, "sync": False}
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / ".lock").open("w") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            self.folder.mkdir(exist_ok=True)
            in_use = (self.folder / _IN_USE).open("w")
            fcntl.flock(in_use, fcntl.LOCK_SH)
            in_use.write(str(most_bytes))
            in_use.flush()
            _make_room(self.folder)
            try:
                return lmdb.open(str(self.folder), **options), in_use
            except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
                _LOG.warning("%s is torn; what it kept is computed again.", self.folder)
                for path in self.folder.glob("*.mdb"):
                    path.unlink()
                return lmdb.open(str(self.folder), **options), in_use

    def __call__(self, inputs: Mapping[str, Tensor], compute: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        """Return the states of a batch, ``[sequences, tokens, hidden]``, zero where there is padding.

        Args:
            inputs: ``[sequences, tokens]`` each.
            compute: Returns the states of what is not there.
        """
        mask = inputs["attention_mask"]
        lengths = mask.sum(1).tolist()
        rows = torch.stack([inputs[name] for name in sorted(inputs)], dim=1).cpu().numpy()
        keys = [
            hashlib.blake2b(rows[place, :, :length].tobytes(), digest_size=20).digest() for place, length in enumerate(lengths)
        ]
        found = self._read(keys)
        missing = {key: place for place, key in enumerate(keys) if key not in found}
        if missing:
            fresh = dict(self._compute(missing, lengths, inputs, compute))
            self._write(fresh)
            found |= fresh
        states = np.zeros((*mask.shape, self.hidden), dtype=np.float32)
        for place, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            states[place, :length] = found[key]
        return torch.from_numpy(states).to(mask.device)

    def _compute(
        self,
        missing: Mapping[bytes, int],
        lengths: Sequence[int],
        inputs: Mapping[str, Tensor],
        compute: Callable[[Mapping[str, Tensor]], Tensor],
    ) -> Iterator[tuple[bytes, Array]]:
        by_length: dict[int, list[bytes]] = {}
        for key, place in missing.items():
            by_length.setdefault(-(-lengths[place] // _TOKENS) * _TOKENS, []).append(key)
        for tokens, keys in by_length.items():
            for start in range(0, len(keys), _ROWS):
                chunk = keys[start : start + _ROWS]
                places = [missing[key] for key in chunk] + [missing[chunk[0]]] * (_ROWS - len(chunk))
                width = min(tokens, inputs["attention_mask"].shape[1])
                own = {name: _padded(value[places, :width], tokens) for name, value in inputs.items()}
                states = compute(own).float().cpu().numpy()
                for row, key in enumerate(chunk):
                    yield key, states[row, : lengths[missing[key]]].copy()

    def _begin(self, **options: bool) -> Any:
        """Start a transaction; if a process with a larger bound has written more than ours, let all that is there be seen."""
        import lmdb

        while True:
            try:
                return self._store.begin(**options)
            except lmdb.MapResizedError:
                self._store.set_mapsize(self._store.info()["map_size"])  # as much as is taken, and no room for more

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Array]:
        found: dict[bytes, Array] = {}
        with self._begin(buffers=True) as transaction:
            for key in keys:
                if key not in found and (value := transaction.get(key)) is not None:
                    found[key] = np.frombuffer(value, dtype=np.float32).reshape(-1, self.hidden).copy()
        return found

    def _write(self, fresh: Mapping[bytes, Array]) -> None:
        import lmdb

        if self._full:
            return
        try:
            with self._begin(write=True) as transaction:
                for key, states in fresh.items():
                    transaction.put(key, states.tobytes(), overwrite=False)
        except lmdb.Error as error:  # full, or the disk is: what is there stays
            self._full = True
            _LOG.warning("%s takes no more (%s); what is not in it is computed each time.", self.folder, error)


def _make_room(own: Path) -> None:
    """Remove other stores that are not open, the one used longest ago first, while all together take more than one may."""
    import fcntl

    bounds = [path.read_text() for path in own.parent.glob(f"*/{_IN_USE}")]
    most_bytes = max(int(bound) for bound in bounds if bound)  # one that is just being opened may have none yet
    sizes = {path.parent: path.stat().st_size for path in own.parent.glob("*/data.mdb")}
    others = {folder: max(path.stat().st_mtime for path in folder.iterdir()) for folder in sizes.keys() - {own}}
    for folder in sorted(others, key=others.__getitem__):
        if sum(sizes.values()) <= most_bytes:
            return
        with (folder / _IN_USE).open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _LOG.info("%s is removed: kept states take more than %s bytes.", folder, most_bytes)
            shutil.rmtree(folder)
            del sizes[folder]


def _padded(values: Tensor, tokens: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, tokens - values.shape[1]))


def key_of(parameters: Mapping[str, Tensor], *rest: object) -> str:
    """Return a name that changes with the parameters' values and with everything else that is given."""
    digest = hashlib.blake2b("|".join(map(str, rest)).encode(), digest_size=12)
    for name, value in sorted(parameters.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
