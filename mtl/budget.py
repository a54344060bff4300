"""Budget: how much is learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from mtl.errors import ConfigError
from mtl.task import Frozen

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: So many examples are dealt out among the tasks before training, a row at a time: some minutes.
_MOST_EXAMPLES = 1e9


class Budget(Frozen):
    """How much is learned from. One of the first two is given; training ends where the first of all that are given is used up.

    Args:
        epochs: Passes over the training rows of all tasks together.
        examples_per_task: Rows learned from, a task on average; the sampler deals them out.
        passes: The most sequences through the encoder, those of inner loops too, for all tasks together.
        seconds: The most seconds of training steps, for all tasks together. What is learned then depends on the machine.
    """

    epochs: Positive | None = None
    examples_per_task: Annotated[int, Field(ge=1)] | None = None
    passes: Annotated[int, Field(ge=1)] | None = None
    seconds: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if (self.epochs is None) == (self.examples_per_task is None):
            raise ValueError("give either epochs or examples_per_task")
        return self

    def examples(self, sizes: Mapping[str, int]) -> int:
        """Return the examples of all tasks together.

        Raises:
            ConfigError: If they are more than can be dealt out.
        """
        total = (self.epochs or 0) * sum(sizes.values())
        total = self.examples_per_task * len(sizes) if self.examples_per_task is not None else max(1, total)
        if total > _MOST_EXAMPLES:
            key = "epochs" if self.examples_per_task is None else "examples_per_task"
            raise ConfigError(
                f"budget.{key}: that is {total:.3g} examples in all; {_MOST_EXAMPLES:.0e} can be dealt out beforehand at most. "
                "Give less; training may end sooner by budget.seconds, budget.passes or evaluation.patience."
            )
        return round(total)

    def limits(self, share: float) -> dict[str, float]:
        """Return what a model that gets a share of the examples may use of everything else, by its name in the progress."""
        given = {"passes": self.passes, "seconds": self.seconds}
        return {unit: most * share for unit, most in given.items() if most is not None}
