"""Checkpoints of a training: the newest that is whole is gone on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl.errors import CheckpointError
from mtl.model.state import load_state, save_state

_LOG = logging.getLogger(__name__)
_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step and remove all but the last two."""
    save_state(folder / f"step-{step:09d}.safetensors", state)
    for old in _checkpoints(folder)[:-_KEPT]:
        old.unlink()


def load_checkpoint(folder: Path) -> Any | None:
    """Read the newest checkpoint that is whole; ``None`` if there is none.

    Raises:
        CheckpointError: If there are checkpoints and every one is torn.
    """
    paths = _checkpoints(folder)
    faults = []
    for path in reversed(paths):
        try:
            return load_state(path)
        except CheckpointError as error:
            _LOG.warning("%s. The checkpoint before it is used.", error)
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"No checkpoint in {folder} can be read: {'; '.join(faults)}. Remove the folder to start again.")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))
