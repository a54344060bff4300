"""IA3: activations multiplied by learned vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mtl.model.peft_adapter import PeftAdapter


@dataclass
class IA3(PeftAdapter):
    """Multiply keys, values and what enters a layer's last projections by learned vectors.

    Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning"
    (arXiv:2205.05638, section 3.3). The fewest weights of all; it wants a high ``optimizer.learning_rate``, such as 3e-3.

    Args:
        inputs: Of ``modules``, those whose input is multiplied rather than their output.
    """

    inputs: tuple[str, ...] = ()

    decays: ClassVar[bool] = False  # the vectors start at 1, and 0 would be nothing left

    def configure(self, peft: Any, **options: Any) -> Any:
        if self.modules:
            options["feedforward_modules"] = [end for end in self.modules if end in self.inputs]
        return peft.IA3Config(**options)
