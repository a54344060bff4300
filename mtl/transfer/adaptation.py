"""Adaptation: how a few support examples become a predictor for a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mtl.errors import DataError
from mtl.model.encoder import Encoder
from mtl.model.inference import TaskData, embed
from mtl.seeds import seed_of

#: Answers rows of the target's test split, by their vectors ``[rows, features]``.
Predictor = Callable[[Tensor], list[str]]


class Adaptation(ABC):
    """How a few support examples become a predictor. Write one as a dataclass; its fields are its options."""

    @abstractmethod
    def adapt(self, vectors: Tensor, answers: Sequence[str]) -> Predictor:
        """Learn from the support.

        Args:
            vectors: Pooled vectors of the support rows, ``[way * shot, features]``.
            answers: Their labels.
        """


def check_shots(target: TaskData, shots: Sequence[int]) -> None:
    """Check that every class has as many training rows as the most shots asked for.

    Raises:
        DataError: If a class has fewer.
    """
    counts = Counter(target.kind.gold(target.splits["train"]))
    label = min(sorted(counts), key=lambda label: counts[label])
    if counts[label] < max(shots, default=0):
        raise DataError(
            f"Target {target.name!r}: class {label!r} has {counts[label]} training rows, fewer than the {max(shots)} shots "
            f"asked for. Ask for at most {counts[label]}."
        )


def few_shot(
    encoder: Encoder, target: TaskData, adaptation: Adaptation, *, shots: int, draws: int, seed: int, size: int
) -> list[float]:
    """Measure transfer: adapt to ``shots`` training rows a class, answer the whole test split, ``draws`` times.

    The support sets depend on the seed, the target and the shots only, so that every method gets the same.

    Returns:
        The target's primary metric for each draw.

    Raises:
        DataError: If a class has fewer rows than shots.
    """
    check_shots(target, [shots])
    train, test = target.splits["train"], target.splits["test"]
    gold = np.array(target.kind.gold(train))
    by_class = {label: np.flatnonzero(gold == label) for label in sorted(set(gold.tolist()))}
    vectors, queries = embed(encoder, train, size=size), embed(encoder, test, size=size)
    rng = np.random.default_rng(seed_of(seed, "support", target.name, shots))
    figures = []
    for _ in range(draws):
        support = np.concatenate([rng.choice(rows, shots, replace=False) for rows in by_class.values()])
        predict = adaptation.adapt(vectors[torch.as_tensor(support)], gold[support].tolist())
        outcome = target.kind.outcome(test, predict(queries), None)
        figures.append(target.kind.primary_metric(outcome))
    return figures
