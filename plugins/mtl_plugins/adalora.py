"""AdaLoRA: low-rank updates whose ranks go where they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mtl.model.peft_adapter import PeftAdapter

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass
class AdaLoRA(PeftAdapter):
    """Add P Λ Q to the attention's weights, and take singular values away from those that need them least.

    Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (arXiv:2303.10512, algorithm 1). The
    budget of ranks falls with the share of the training that is used up (equation 12), so that it is the same after a stop.
    Where every task has adapters of its own, each has a budget of its own. Weights that were best early may still have ranks
    that a later budget takes away.

    Args:
        rank: Singular values of a matrix in the end, on average.
        initial_rank: Singular values of each at first. Default: half as many again.
        start: Share of the training in which nothing is taken away.
        finish: Share of the training, its last, in which the ranks are as in the end.
        sensitivity: Decay of the running mean of the importance of a weight (equation 9).
        uncertainty: Decay of the running mean of how far it varies (equation 10).
        orthogonality: Weight of the penalty that makes P and Q orthogonal (equation 4), a mean over matrices.
    """

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    initial_rank: Annotated[int, Field(ge=1, le=2048)] | None = None
    start: Share = 0.1
    finish: Share = 0.3
    sensitivity: Share = 0.85
    uncertainty: Share = 0.85
    orthogonality: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5

    def __post_init__(self) -> None:
        self._most = self.initial_rank or -(-3 * self.rank // 2)
        if self._most < self.rank:
            raise ValueError(f"initial_rank must be at least rank, {self.rank} (found {self._most})")
        if self.start + self.finish >= 1:
            raise ValueError(f"start and finish must be less than 1 together (found {self.start} and {self.finish})")
        self._means: dict[str, dict[str, Tensor]] = {"sensitivity": {}, "uncertainty": {}}

    def configure(self, peft: Any, **options: Any) -> Any:
        # Its own schedule counts steps, whose number is not known here; it is not used.
        return peft.AdaLoraConfig(
            init_r=self._most, target_r=self.rank, lora_alpha=self._most, tinit=0, tfinal=0, total_step=1, **options
        )

    def before_step(self, modules: Mapping[str, nn.Module]) -> None:
        share = self.orthogonality / (2 * len(modules))
        for module in modules.values():
            _, q, p = _factors(module)
            for factor, rows in ((q, q.detach()), (p, p.detach().T)):
                if factor.grad is not None:
                    # The gradient of ‖QQᵀ − I‖² by Q is 4 (QQᵀ − I) Q.
                    slope = 4 * share * (rows @ rows.T - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)) @ rows
                    factor.grad += slope if factor is q else slope.T

    @torch.no_grad()
    def after_step(self, modules: Mapping[str, nn.Module], progress: float) -> None:
        scores = []
        for place, module in modules.items():
            values, q, p = _factors(module)
            looked = [self._look(f"{place}.{name}", found) for name, found in (("E", values), ("A", q), ("B", p))]
            if any(one is None for one in looked):
                return  # a task whose adapters have not been trained yet
            of_values, of_q, of_p = looked
            scores.append(of_values.flatten() + of_q.mean(1) + of_p.mean(0))  # type: ignore[union-attr]
        left = self.budget(progress) * len(scores)
        ranked = torch.cat(scores).argsort(descending=True, stable=True)
        kept = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
        kept[ranked[: round(left)]] = True
        for module, own in zip(modules.values(), kept.split([len(one) for one in scores]), strict=True):  # type: ignore[no-untyped-call]
            _factors(module)[0][~own] = 0.0

    def budget(self, progress: float) -> float:
        """Return how many singular values a matrix has on average when ``progress`` of the training is used."""
        rest = 1 - min(1.0, max(0.0, (progress - self.start) / (1 - self.start - self.finish)))
        return self.rank + (self._most - self.rank) * rest**3

    def _look(self, name: str, parameter: nn.Parameter) -> Tensor | None:
        """Bring the means of a weight up to date, and return its importance; ``None`` if it has never been looked at."""
        means, spreads = self._means["sensitivity"], self._means["uncertainty"]
        if parameter.grad is not None:
            now = (parameter * parameter.grad).abs()
            mean = means.get(name, torch.zeros_like(now)).to(now)
            mean = self.sensitivity * mean + (1 - self.sensitivity) * now
            spread = spreads.get(name, torch.zeros_like(now)).to(now)
            means[name] = mean
            spreads[name] = self.uncertainty * spread + (1 - self.uncertainty) * (now - mean).abs()
        return means[name].to(parameter) * spreads[name].to(parameter) if name in means else None

    def state_dict(self) -> dict[str, Any]:
        return {key: dict(values) for key, values in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._means = {key: dict(state[key]) for key in self._means}


def _factors(module: Any) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Return Λ, ``[rank, 1]``, Q, ``[rank, inputs]``, and P, ``[outputs, rank]``."""
    ((values, q, p),) = zip(
        module.lora_E.parameters(), module.lora_A.parameters(), module.lora_B.parameters(), strict=True
    )  # of one adapter
    return values, q, p
