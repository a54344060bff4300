"""Joint training: one model, a weighted sum of the tasks' losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import mtl
from mtl.config import Choice
from mtl.model.multitask import MultiTaskModel
from mtl.training.strategy import Build, Draw, StepReport
from mtl.training.weighting import TaskLoss

if TYPE_CHECKING:
    from mtl.config import ExperimentConfig
    from mtl.training.sampler import Sampler


@dataclass
class Joint(mtl.Strategy):
    """Train one model on all tasks (Caruana 1997, Machine Learning 28:41).

    The loss of a step is ``Σ_t (rows_t / rows) · w_t · L_t`` with ``L_t`` the mean loss per predicted unit of
    task t over all its rows in the step: how much a task counts is said by the sampler and the weighting, not by
    how many units its rows have, and neither by how its rows are spread over batches.

    Args:
        weighting: How the losses are weighed.
    """

    weighting: Choice = field(default_factory=lambda: Choice(name="static"))

    def setup(self, tasks: Sequence[TaskLoss], build: Build) -> None:
        self._weighting: mtl.Weighting = build("weighting", self.weighting)
        self._weighting.setup(tasks)

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        super().check(config, sampler)
        self._weighting.check()

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._weighting.parameters()

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        rows, units = Counter[str](), Counter[str]()
        for batch in draw:
            for name, part in batch.parts.items():
                rows[name] += part.rows
                units[name] += part.units
        total_rows = sum(rows.values())
        report = StepReport()
        self._weighting.begin_step()
        for batch in draw:
            outputs = model(batch)
            weighted = []
            for name, part in batch.parts.items():
                loss = model.loss(name, outputs[name], batch)
                share = part.units / max(units[name], 1)
                weighted.append(rows[name] / total_rows * share * self._weighting.weigh(name, loss))
                report.losses[name] = report.losses.get(name, torch.zeros_like(loss)) + share * loss.detach()
            torch.autograd.backward(torch.stack(weighted).sum())
        report.weights = self._weighting.weights()
        return report

    def end_step(self, report: StepReport, progress: float) -> None:
        self._weighting.end_step(report.losses, progress)

    def state_dict(self) -> dict[str, Any]:
        return {"weighting": self._weighting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weighting.load_state_dict(state["weighting"])
