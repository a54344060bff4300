"""What a model was trained on, kept with it as names of classes and hashes of texts."""

from __future__ import annotations

from collections.abc import Mapping
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
        texts: Hashes of its training texts, sorted, each once; ``[texts]``, int64. ``None`` if they are not kept, as of data
            that stay on disk: they would take memory that grows with the rows.
    """

    classes: tuple[str, ...]
    texts: Array | None


def save_trained(folder: Path, trained: Mapping[str, Trained]) -> dict[str, dict[str, Any]]:
    """Write the hashes beside a bundle's weights; return what ``bundle.json`` has of each source: its classes, how many texts."""
    texts = {name: torch.from_numpy(source.texts) for name, source in trained.items() if source.texts is not None}
    save_state(folder / TRAINED_FILE, texts)
    counts = {name: None if source.texts is None else len(source.texts) for name, source in trained.items()}
    return {name: {"classes": list(source.classes), "texts": counts[name]} for name, source in trained.items()}


def load_trained(folder: Path, about: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Trained] | None:
    """Read what :func:`save_trained` wrote; ``None`` for a bundle that does not say what it was trained on.

    Raises:
        CheckpointError: If the file is missing or torn.
    """
    if about is None:
        return None
    texts: Mapping[str, Any] = load_state(folder / TRAINED_FILE)
    return {
        name: Trained(tuple(source["classes"]), None if source["texts"] is None else texts[name].numpy())
        for name, source in about.items()
    }
