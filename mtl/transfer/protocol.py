"""Protocol: which rows of a target are learned from and which are asked, the same for every method."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mtl.data.episodes import EpisodeRows
from mtl.data.features import Features, join
from mtl.errors import CheckpointError, DataError
from mtl.files import read_json, write_text
from mtl.model.inference import TaskData

_VERSION = 1


class Protocol(ABC):
    """Draws the episodes of a target. Write one as a dataclass; its fields are its options.

    Attributes:
        unseen_classes: Whether the target's classes must be none of the sources'.
    """

    unseen_classes: ClassVar[bool] = False

    def files(self, task: str, shots: Sequence[int]) -> dict[str, str]:
        """Return files that are read beside the task's own: a name for each, and its path."""
        return {}

    def pool(self, target: TaskData) -> Features:
        """Return the rows that the episodes' numbers mean; by default those of all splits, one after the other."""
        return join(list(target.splits.values()))

    @abstractmethod
    def draw(self, target: TaskData, shots: int, seed: int) -> list[EpisodeRows]:
        """Draw the episodes of one number of shots.

        Args:
            target: The target, with the splits of :meth:`files`.
            shots: Support rows a class.
            seed: Of everything random.

        Raises:
            DataError: If the target has too few rows or classes.
        """


@dataclass(frozen=True)
class Manifest:
    """The episodes of a target, written once and read by every method.

    Attributes:
        target: The task.
        seed: That they were drawn with.
        protocol: What they were drawn by.
        pool: Hash of the rows that the numbers mean, see :func:`identity_of`.
        episodes: For each number of shots.
    """

    target: str
    seed: int
    protocol: Mapping[str, Any]
    pool: str
    episodes: Mapping[int, Sequence[EpisodeRows]]

    def to_json(self) -> str:
        """Return the manifest as JSON with its hash."""
        body = {
            "version": _VERSION,
            "target": self.target,
            "seed": self.seed,
            "protocol": dict(self.protocol),
            "pool": self.pool,
            "episodes": {
                str(shots): [
                    {"classes": list(rows.classes), "support": list(rows.support), "query": _short(rows.query)}
                    for rows in episodes
                ]
                for shots, episodes in self.episodes.items()
            },
        }
        return json.dumps(body | {"hash": _hash(body)}) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        CheckpointError: If it is not one, or its hash is not that of its contents.
    """
    body = read_json(path, CheckpointError)
    found = body.pop("hash", None) if isinstance(body, dict) else None
    if found is None or found != _hash(body) or body.get("version") != _VERSION:
        raise CheckpointError(f"{path} is not a manifest of episodes, or was changed by hand. Remove it to draw anew.")
    name = body["target"]
    episodes = {
        int(shots): [
            EpisodeRows(name, tuple(entry["classes"]), tuple(entry["support"]), tuple(_long(entry["query"]))) for entry in entries
        ]
        for shots, entries in body["episodes"].items()
    }
    return Manifest(name, body["seed"], body["protocol"], body["pool"], episodes)


def identity_of(target: TaskData, pool: Features) -> str:
    """Return a hash of what an episode's numbers mean: rows that were kept, classes in their order, and the rows of each."""
    digest = hashlib.sha256(pool.rows.fingerprint.encode())
    digest.update(np.asarray(pool.rows.numbers, dtype=np.int64).tobytes())
    classes = [list(map(int, own)) for own in target.kind.classes_of(pool) or ()]
    digest.update(json.dumps([target.kind.task.kind, list(target.kind.class_names), classes]).encode())
    return digest.hexdigest()


def make_manifest(
    path: Path, protocol: Protocol, options: Mapping[str, Any], target: TaskData, pool: Features, shots: Sequence[int], seed: int
) -> Manifest:
    """Read the manifest at ``path``, or draw the episodes and write it.

    Raises:
        DataError: If the target's rows are no longer those of the manifest, or too few.
    """
    identity = identity_of(target, pool)
    if path.is_file():
        manifest = read_manifest(path)
        if manifest.pool != identity:
            raise DataError(
                f"Target {target.name!r}: its rows have changed since {path} was written. Remove it to draw new episodes, "
                "or give the experiment another name."
            )
        return manifest
    episodes = {count: protocol.draw(target, count, seed) for count in shots}
    manifest = Manifest(target.name, seed, options, identity, episodes)
    write_text(path, manifest.to_json())
    return manifest


def _short(rows: Sequence[int]) -> list[int] | str:
    """Write many consecutive rows, such as a whole test split, as ``first-last``."""
    if len(rows) > 2 and list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return f"{rows[0]}-{rows[-1]}"
    return list(rows)


def _long(rows: list[int] | str) -> Sequence[int]:
    if isinstance(rows, str):
        first, last = map(int, rows.split("-"))
        return range(first, last + 1)
    return rows


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
