"""What a model was trained on, kept with it as names of classes and hashes of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtl.metrics import Array
from mtl.model.state import load_state, save_state

TRAINED_FILE = "trained.safetensors"


@dataclass(frozen=True)
class Trained:
    """What a training had of one source.

    Attributes:
        classes: Names of its classes.
        texts: Hashes of its training texts, sorted, each once; ``[texts]``, int64.
    """

    classes: tuple[str, ...]
    texts: Array


def save_trained(folder: Path, trained: Mapping[str, Trained]) -> dict[str, list[str]]:
    """Write the hashes beside a bundle's weights, and return what ``bundle.json`` has of the sources: their classes."""
    save_state(folder / TRAINED_FILE, {name: torch.from_numpy(source.texts) for name, source in trained.items()})
    return {name: list(source.classes) for name, source in trained.items()}


def load_trained(folder: Path, about: Mapping[str, Sequence[str]] | None) -> dict[str, Trained] | None:
    """Read what :func:`save_trained` wrote; ``None`` for a bundle that does not say what it was trained on.

    Raises:
        CheckpointError: If the file is missing or torn.
    """
    if about is None:
        return None
    texts: Mapping[str, Any] = load_state(folder / TRAINED_FILE)
    return {name: Trained(tuple(classes), texts[name].numpy()) for name, classes in about.items()}
