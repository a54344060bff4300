"""Aggregations of TorchJD, the Jacobian descent library (Quinton & Rey 2024, arXiv:2406.16232), under their papers' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from sys import version_info
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtl.errors import ConfigError, MissingExtraError
from mtl.training.aggregation import Aggregation, Combined

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Steps = Annotated[int, Field(ge=1)]


@dataclass
class _FromTorchJD(Aggregation):
    """Asks an aggregator of TorchJD, or the derivatives of one of its scalarizations."""

    home: ClassVar[str] = "torchjd.aggregation"
    made: ClassVar[str]

    def setup(self, tasks: Sequence[str]) -> None:
        try:
            self._made: Any = getattr(import_module(self.home), self.made)(**self.options(len(tasks)))
        except ImportError as error:
            missing = "torchjd" if find_spec("torchjd") is None else f"what TorchJD's {self.made} solves with"
            raise MissingExtraError(missing, extra="gradient") from error

    def options(self, tasks: int) -> dict[str, Any]:
        """Return what it is made with."""
        return {}

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        of_products = getattr(self._made, "gramian_weighting", None)
        with torch.no_grad():
            weights = self._made.weighting(_root(gramian)) if of_products is None else of_products(gramian)
        weights = weights.to(jacobian)
        return Combined(weights @ jacobian, weights)


def _root(gramian: Tensor) -> Tensor:
    """Return rows as few as the tasks, ``[tasks, tasks]`` in float64 on the CPU, whose products are those of the gradients."""
    values, vectors = torch.linalg.eigh(gramian.cpu().double())
    rows: Tensor = vectors * values.clamp(min=0).sqrt()
    return rows


@dataclass
class UPGrad(_FromTorchJD):
    """Project every gradient onto the cone of those that hurt no task; their mean (Quinton & Rey 2024, arXiv:2406.16232)."""

    made: ClassVar[str] = "UPGrad"


@dataclass
class PCGrad(_FromTorchJD):
    """Take from each gradient what conflicts with another (Yu et al. 2020, arXiv:2001.06782, algorithm 1)."""

    made: ClassVar[str] = "PCGrad"


@dataclass
class CAGrad(_FromTorchJD):
    """Improve the worst task, near the mean gradient (Liu et al. 2021, arXiv:2110.14048, algorithm 1).

    Args:
        c: How far from the mean, in its norms.
    """

    c: _Share = 0.5

    made: ClassVar[str] = "CAGrad"

    def options(self, tasks: int) -> dict[str, Any]:
        return {"c": self.c}


@dataclass
class MGDA(_FromTorchJD):
    """Take the shortest convex combination (Désidéri 2012; Sener & Koltun 2018, arXiv:1810.04650, algorithm 2)."""

    made: ClassVar[str] = "MGDA"


@dataclass
class NashMTL(_FromTorchJD):
    """Take the Nash bargaining solution (Navon et al. 2022, arXiv:2202.01017, algorithm 1).

    Args:
        every: Steps between two solutions; the weights of the last are used in between.
    """

    every: _Steps = 1
    every_task: ClassVar[bool] = True

    made: ClassVar[str] = "NashMTL"

    def setup(self, tasks: Sequence[str]) -> None:
        try:
            super().setup(tasks)
        except MissingExtraError as error:
            if version_info < (3, 13) or find_spec("torchjd") is None or find_spec("cvxpy") is None:
                raise
            raise ConfigError(
                "strategy.aggregation: nash-mtl solves with 'ecos', which is not installed and has no wheel for Python "
                f"{version_info[0]}.{version_info[1]}. Take another aggregation, or Python 3.12 or older."
            ) from error

    def options(self, tasks: int) -> dict[str, Any]:
        return {"n_tasks": tasks, "update_weights_every": self.every}

    def state_dict(self) -> dict[str, Any]:
        solver = self._made.weighting
        return {"step": float(solver.step), "alpha": torch.as_tensor(solver.prvs_alpha, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        solver = self._made.weighting
        solver.step, solver.prvs_alpha = state["step"], state["alpha"].numpy()
        if solver.step:
            solver._init_optim_problem()


@dataclass
class AlignedMTL(_FromTorchJD):
    """Make the gradients orthogonal and of one length before they are added (Senushkin et al. 2023, arXiv:2305.19000).

    Args:
        scale: Their length: of the smallest, median or root mean square singular value.
    """

    scale: Literal["min", "median", "rmse"] = "min"

    made: ClassVar[str] = "AlignedMTL"

    def options(self, tasks: int) -> dict[str, Any]:
        return {"scale_mode": self.scale}


@dataclass
class IMTLG(_FromTorchJD):
    """Have equal projections onto all gradients (Liu et al. 2021, "Towards Impartial Multi-Task Learning", ICLR)."""

    made: ClassVar[str] = "IMTLG"


@dataclass
class GradVac(_FromTorchJD):
    """Turn gradients towards one another up to a running mean of their cosine (Wang et al. 2021, arXiv:2010.05874).

    Args:
        beta: How fast that mean moves.
    """

    beta: _Share = 0.5
    every_task: ClassVar[bool] = True

    made: ClassVar[str] = "GradVac"

    def options(self, tasks: int) -> dict[str, Any]:
        return {"beta": self.beta}

    def state_dict(self) -> dict[str, Any]:
        found = self._made.gramian_weighting._phi_t
        return {"phi": torch.empty(0) if found is None else found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weighting, phi = self._made.gramian_weighting, state["phi"]
        if len(phi):
            weighting._phi_t, weighting._state_key = phi.clone(), (len(phi), phi.dtype)


@dataclass
class FairGrad(_FromTorchJD):
    """Share the gain as α-fairness says (Ban & Ji 2024, arXiv:2402.15638, equation 4).

    Args:
        alpha: 0 is the mean, 1 is proportional fairness, large is max-min.
    """

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    made: ClassVar[str] = "FairGrad"

    def options(self, tasks: int) -> dict[str, Any]:
        return {"alpha": self.alpha}


class _Scalarized(_FromTorchJD):
    """Weighs the gradients by the derivatives of a scalar function of the losses."""

    home: ClassVar[str] = "torchjd.scalarization"

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        self._made.to(losses.device)  # what it remembers was made on the CPU
        values = losses.detach().clone().requires_grad_()
        with torch.enable_grad():  # a clone, as hooks of those who count operations cannot be on a leaf
            (weights,) = torch.autograd.grad(self._made(values.clone()), values)
        return Combined(weights @ jacobian, weights)


@dataclass
class FAMO(_Scalarized):
    """Lower all losses at the same relative pace (Liu et al. 2023, arXiv:2306.03792).

    Its weights move by how far a step has lowered the losses of its own rows, for which they are read once more.

    Args:
        rate: Of the weights' own Adam.
        decay: Weight decay of the weights.
        every: Steps from one that is looked back at, by a second forward pass over its rows, to the next. The paper has 1,
            which is a third more to compute.
    """

    rate: _Positive = 0.025
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    every: _Steps = 8
    every_task: ClassVar[bool] = True

    made: ClassVar[str] = "FAMO"

    def setup(self, tasks: Sequence[str]) -> None:
        super().setup(tasks)
        self._steps = 0

    def options(self, tasks: int) -> dict[str, Any]:
        return {"shape": tasks, "lr": self.rate, "weight_decay": self.decay}

    def combine(self, jacobian: Tensor, losses: Tensor, gramian: Tensor) -> Combined:
        self._steps += 1
        return super().combine(jacobian, losses, gramian)

    def looks_back(self) -> bool:
        return self._steps % self.every == 0

    def look_back(self, losses: Tensor) -> None:
        self._made.update(losses)

    def state_dict(self) -> dict[str, Any]:
        adam = self._made._optimizer
        return {"logits": self._made._w.detach(), "adam": {} if adam is None else adam.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]
        with torch.no_grad():
            self._made._w.copy_(state["logits"])
        if state["adam"]:
            self._made.to(state["logits"].device)
            self._made._optimizer = torch.optim.Adam([self._made._w], lr=self.rate, weight_decay=self.decay)
            self._made._optimizer.load_state_dict(state["adam"])


@dataclass
class STCH(_Scalarized):
    """Lower the largest loss, smoothly (Lin et al. 2024, arXiv:2402.19078).

    Args:
        mu: The smaller, the nearer to the maximum.
    """

    mu: _Positive = 0.1

    made: ClassVar[str] = "STCH"

    def options(self, tasks: int) -> dict[str, Any]:
        return {"mu": self.mu}


@dataclass
class GeometricMean(_Scalarized):
    """Lower the geometric mean of the losses (Chennupati et al. 2019, CVPR workshops)."""

    made: ClassVar[str] = "GeometricMean"
