"""What a training has practised, kept in a bundle so that a target can be learned in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.config import Choice, EpisodesConfig
from mtl.model.state import load_state, save_state

_STATE_FILE = "practice.safetensors"


@dataclass(frozen=True)
class Practice:
    """What an episodic training has practised, so that a target can be learned in the same way.

    Attributes:
        strategy: The strategy and its options.
        episodes: What its episodes were.
        state: What it has learned beside the encoder.
        chosen: Options of adaptations that were chosen by meta-validation.
    """

    strategy: Choice
    episodes: EpisodesConfig
    state: Mapping[str, Any]
    chosen: Mapping[str, Choice]

    def frozen(self, choice: Choice) -> Choice:
        """Return an adaptation with the options that were chosen for it, where it is asked for without any."""
        own = (known for known in self.chosen.values() if known.name == choice.name)
        return choice if choice.options else next(own, choice)


def save_practice(folder: Path, practice: Practice) -> dict[str, Any]:
    """Write what is learned beside a bundle, and return what its ``bundle.json`` says of it."""
    save_state(folder / _STATE_FILE, practice.state)
    return {
        "strategy": practice.strategy.model_dump(mode="json"),
        "episodes": practice.episodes.model_dump(mode="json"),
        "chosen": {label: choice.model_dump(mode="json") for label, choice in practice.chosen.items()},
    }


def load_practice(folder: Path, about: Mapping[str, Any] | None) -> Practice | None:
    """Read what :func:`save_practice` has written; ``None`` where there was nothing."""
    if about is None:
        return None
    chosen = {label: Choice.model_validate(choice) for label, choice in about["chosen"].items()}
    episodes = EpisodesConfig.model_validate(about["episodes"])
    return Practice(Choice.model_validate(about["strategy"]), episodes, load_state(folder / _STATE_FILE), chosen)
