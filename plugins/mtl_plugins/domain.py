"""Transfer to a held-out domain: a few of its training rows, all of its test rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtl.data.episodes import EpisodeRows, Pool
from mtl.data.features import Features, join
from mtl.errors import DataError
from mtl.model.inference import TaskData
from mtl.seeds import seed_of
from mtl.transfer.protocol import Protocol


@dataclass
class Domain(Protocol):
    """Draw K training rows of every class, and ask all test rows.

    Args:
        draws: Support sets for each number of shots.
    """

    draws: Annotated[int, Field(ge=1)] = 20

    def pool(self, target: TaskData) -> Features:
        return join([target.splits["train"], target.splits["test"]])

    def draw(self, target: TaskData, shots: int, seed: int) -> list[EpisodeRows]:
        train, test = target.splits["train"], target.splits["test"]
        pool = Pool(train, target.kind, 1)
        pool.check_shots(target.name, shots)
        if shots:
            _check_classes(target, pool)
        query = tuple(range(len(train), len(train) + len(test)))
        rng = np.random.default_rng(seed_of(seed, "support", target.name, shots))
        found = []
        for _ in range(self.draws if shots else 1):  # without support there is nothing to draw
            rows = pool.draw(rng, target.name, None, shots, 0)
            found.append(EpisodeRows(rows.task, rows.classes, rows.support, query))
        return found


def _check_classes(target: TaskData, pool: Pool) -> None:
    """Refuse test rows of a class that no support can have.

    Raises:
        DataError: Naming the first.
    """
    asked = target.kind.classes_of(target.splits["test"])
    if pool.by_class is None or asked is None:
        return
    lacking = Counter(number for row in asked for number in row if number not in pool.by_class)
    if lacking:
        number, count = next(iter(lacking.items()))
        raise DataError(
            f"Target {target.name!r}: class {target.kind.class_names[number]!r} is in {count} of {len(asked)} test rows and in "
            "no training row, so that no support can have it. Give it training rows, or leave it out with 'where'."
        )
