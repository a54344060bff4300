"""Meta-SGD: the inner learning rates are learned along with the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mtl.episodic.gradient_based import GradientBased


@dataclass
class MetaSGD(GradientBased):
    """MAML with learned rates, a scalar for each layer and step; one for each number with ``rates: element``.

    Li et al. 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning" (arXiv:1707.09835), equation 2, has the
    rates of ``element``.
    """

    rates: Literal["fixed", "layer", "layer-step", "element"] = "layer-step"
