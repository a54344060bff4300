"""Low-rank updates learned from the support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from mtl.data.episodes import EpisodeRows
from mtl.meta.scope import Adapted
from mtl.model.encoder import Encoder
from mtl.transfer.adaptation import Predictor
from mtl.transfer.fine_tuning import FineTuning, Positive
from mtl.transfer.space import Space
from mtl_plugins.lora import LoRA


@dataclass
class LoRATuning(FineTuning):
    """Train the head and fresh low-rank updates of the attention (Hu et al. 2022, arXiv:2106.09685, equation 3).

    A bundle that is adapted so has the updates folded into its weights.

    Args:
        rank: Of the updates.
        alpha: They are scaled by alpha / rank. Default: the rank, a scale of 1.
        rate: Learning rate of the updates. One of their two factors starts from zero.
    """

    rate: Positive = 3e-3
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Positive | None = None

    adapted: ClassVar[Adapted] = "adapter"

    def check_encoder(self, encoder: Encoder) -> None:
        encoder.with_adapters(self._fresh())

    def adapt(self, space: Space, episode: EpisodeRows) -> Predictor:
        return super().adapt(space.with_adapters(self._fresh()), episode)

    def _fresh(self) -> LoRA:
        return LoRA(rank=self.rank, alpha=self.alpha)
