"""How sure a mean is, when episodes are of seeds and seeds are of splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Figures of episodes, in lists of seeds, in lists of splits, to any depth.
Nested = Sequence[Any]
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread.

    Attributes:
        mean: Of all figures; every list of a level counts alike.
        sd: Standard deviation over the figures.
        low: Lower end of the 95 % interval.
        high: Upper end.
        count: How many figures there are.
    """

    mean: float
    sd: float
    low: float
    high: float
    count: int


def estimate(figures: Nested, *, seed: int = 0) -> Estimate:
    """Return mean and 95 % interval by the hierarchical bootstrap.

    At every level as many lists (or figures) are drawn with replacement as there are, from the outermost inwards
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8); the interval goes from the 2.5th to
    the 97.5th percentile of the means of 2,000 resamples. A level with one list adds nothing to the interval.
    """
    rng = np.random.default_rng(seed)
    nested = _as_arrays(figures)
    flat = np.concatenate(list(_leaves(nested)))
    means = [_resample(nested, rng) for _ in range(_RESAMPLES)] if len(flat) > 1 else [float(flat.mean())]
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    sd = float(flat.std(ddof=1)) if len(flat) > 1 else 0.0
    return Estimate(_mean(nested), sd, low, high, len(flat))


def differences(figures: Nested, base: Nested) -> list[Any]:
    """Return what is gained on each episode, in the same lists.

    Raises:
        ValueError: If the two do not have the same episodes.
    """
    if len(figures) != len(base):
        raise ValueError(f"{len(figures)} figures cannot be paired with {len(base)}")
    return [
        differences(value, other) if isinstance(value, Sequence) else float(value) - float(other)
        for value, other in zip(figures, base, strict=True)
    ]


def _as_arrays(figures: Nested) -> Any:
    if isinstance(figures[0], Sequence):
        return [_as_arrays(inner) for inner in figures]
    return np.asarray(figures, dtype=np.float64)


def _leaves(nested: Any) -> Any:
    if isinstance(nested, np.ndarray):
        yield nested
    else:
        for inner in nested:
            yield from _leaves(inner)


def _mean(nested: Any) -> float:
    if isinstance(nested, np.ndarray):
        return float(nested.mean())
    return float(np.mean([_mean(inner) for inner in nested]))


def _resample(nested: Any, rng: np.random.Generator) -> float:
    places = rng.integers(0, len(nested), len(nested))
    if isinstance(nested, np.ndarray):
        return float(nested[places].mean())
    return float(np.mean([_resample(nested[place], rng) for place in places]))
