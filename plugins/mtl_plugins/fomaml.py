"""First-order MAML: the gradient at the end of the inner loop, taken for that at its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtl.episodic.gradient_based import GradientBased


@dataclass
class FOMAML(GradientBased):
    """MAML without second derivatives (Finn et al. 2017, arXiv:1703.03400, section 5.2)."""

    exact: ClassVar[bool] = False
