"""ANIL: only the head is adapted; the encoder is trained by the outer loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from mtl.episodic.gradient_based import GradientBased
from mtl.meta.scope import Adapted


@dataclass
class ANIL(GradientBased):
    """MAML with an inner loop on the head alone; the encoder runs once an episode.

    Raghu et al. 2020, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML"
    (arXiv:1909.09157), section 4.
    """

    adapt: Adapted = "head"
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    memory: Literal["store", "recompute"] = "store"
