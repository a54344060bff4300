"""Support sets that came with the data, and the whole test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtl.data.episodes import EpisodeRows
from mtl.data.features import Features, join
from mtl.errors import ConfigError, DataError
from mtl.model.inference import TaskData
from mtl.seeds import seed_of
from mtl.transfer.protocol import Protocol

Count = Annotated[int, Field(ge=1)]


@dataclass
class Supports(Protocol):
    """Learn from each of the given support sets, over the full label space, and ask the test rows.

    The protocol of LEOPARD (Bansal et al. 2020, arXiv:1911.03863), section 4: ten support sets for each number of
    shots.

    Args:
        path: A path with ``{task}`` (the target's name after its last ``/``), ``{shots}`` and ``{split}`` in it.
        splits: How many support sets; they are numbered from 0.
        skip: Support sets that do not exist, as ``task/shots/split``.
        test_rows: Ask only so many test rows, drawn once. Default: all.
    """

    path: str
    splits: Count = 10
    skip: tuple[str, ...] = ()
    test_rows: Count | None = None

    def __post_init__(self) -> None:
        lacking = [part for part in ("{shots}", "{split}") if part not in self.path]
        if lacking:
            raise ConfigError(f"protocol 'supports': path {self.path!r} has no {lacking[0]}, so all supports would be one file.")

    def files(self, task: str, shots: Sequence[int]) -> dict[str, str]:
        name = task.rpartition("/")[2]
        found = {}
        for count in shots:
            for split in range(self.splits):
                if f"{name}/{count}/{split}" not in self.skip:
                    path = self.path.replace("{task}", name).replace("{shots}", str(count)).replace("{split}", str(split))
                    found[f"support/{count}/{split}"] = path
        return found

    def pool(self, target: TaskData) -> Features:
        return join([target.splits[name] for name in self._order(target)])

    def _order(self, target: TaskData) -> list[str]:
        return ["test", *(name for name in target.splits if name.startswith("support/"))]

    def draw(self, target: TaskData, shots: int, seed: int) -> list[EpisodeRows]:
        count = len(target.splits["test"])
        query: Sequence[int] = range(count)
        if self.test_rows is not None and self.test_rows < count:
            rng = np.random.default_rng(seed_of(seed, "test rows", target.name))
            query = sorted(rng.permutation(count)[: self.test_rows].tolist())
        classes = tuple(range(len(target.kind.class_names)))
        found, start = [], 0
        for name in self._order(target):
            size = len(target.splits[name])
            if name.startswith(f"support/{shots}/"):
                self._check(target, name, classes)
                found.append(EpisodeRows(target.name, classes, tuple(range(start, start + size)), tuple(query)))
            start += size
        return found

    def _check(self, target: TaskData, name: str, classes: Sequence[int]) -> None:
        rows = target.kind.classes_of(target.splits[name])
        lacking = set(classes) - {number for row in rows or () for number in row}
        if rows is not None and lacking:
            label = target.kind.class_names[min(lacking)]
            raise DataError(
                f"Target {target.name!r}: the support {target.splits[name].rows.source} has no row of class {label!r}, which "
                "the target has. Give one, or leave the support out with protocol.skip."
            )
