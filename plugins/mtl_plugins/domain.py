"""Transfer to a held-out domain: a few of its training rows, all of its test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtl.data.episodes import EpisodeRows, Pool
from mtl.data.features import Features, join
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
        query = tuple(range(len(train), len(train) + len(test)))
        rng = np.random.default_rng(seed_of(seed, "support", target.name, shots))
        found = []
        for _ in range(self.draws):
            rows = pool.draw(rng, target.name, None, shots, 0)
            found.append(EpisodeRows(rows.task, rows.classes, rows.support, query))
        return found
