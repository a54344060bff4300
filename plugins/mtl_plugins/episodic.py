"""Episodes of N ways and K shots, with as many queries a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from mtl.data.episodes import EpisodeRows, Pool
from mtl.model.inference import TaskData
from mtl.seeds import seed_of
from mtl.transfer.protocol import Protocol

Count = Annotated[int, Field(ge=1)]


@dataclass
class Episodic(Protocol):
    """Draw classes, support and queries anew for every episode, from all rows of the target.

    The protocol of Vinyals et al. 2016 (arXiv:1606.04080), section 4.1; the target's classes must not have been
    trained.

    Args:
        ways: Classes of an episode.
        queries: Query rows a class.
        episodes: How many for each number of shots.
    """

    ways: Count = 5
    queries: Count = 5
    episodes: Count = 600

    unseen_classes: ClassVar[bool] = True

    def draw(self, target: TaskData, shots: int, seed: int) -> list[EpisodeRows]:
        pool = Pool(self.pool(target), target.kind, shots + self.queries)
        pool.check(target.name, self.ways, shots + self.queries)
        rng = np.random.default_rng(seed_of(seed, "episodic", target.name, shots))
        return [pool.draw(rng, target.name, self.ways, shots, self.queries) for _ in range(self.episodes)]
