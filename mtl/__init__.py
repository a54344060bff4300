"""Multi-task and meta-learning for NLP on one shared Transformer encoder, with tasks as plugins."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mtl.errors import MTLError
    from mtl.experiment import Experiment, load_experiment
    from mtl.grid.backend import Backend
    from mtl.hookspecs import hookimpl
    from mtl.kind import TaskKind
    from mtl.metrics import Metric, Outcome
    from mtl.model.adapters import Adapter
    from mtl.model.bundle import Bundle, load_bundle
    from mtl.task import FileData, HubData, ListData, Task
    from mtl.training.aggregation import Aggregation, Combined
    from mtl.training.sampler import Sampler
    from mtl.training.strategy import Strategy
    from mtl.training.weighting import Weighting
    from mtl.transfer.adaptation import Adaptation, FeatureAdaptation
    from mtl.transfer.protocol import Protocol

#: Public name → module. Imported when first used, so that ``import mtl`` and ``mtl --help`` stay quick.
_HOMES = {
    "Adaptation": "mtl.transfer.adaptation",
    "Adapter": "mtl.model.adapters",
    "Aggregation": "mtl.training.aggregation",
    "Backend": "mtl.grid.backend",
    "Bundle": "mtl.model.bundle",
    "Combined": "mtl.training.aggregation",
    "Experiment": "mtl.experiment",
    "FeatureAdaptation": "mtl.transfer.adaptation",
    "FileData": "mtl.task",
    "HubData": "mtl.task",
    "ListData": "mtl.task",
    "MTLError": "mtl.errors",
    "Metric": "mtl.metrics",
    "Outcome": "mtl.metrics",
    "Protocol": "mtl.transfer.protocol",
    "Sampler": "mtl.training.sampler",
    "Strategy": "mtl.training.strategy",
    "Task": "mtl.task",
    "TaskKind": "mtl.kind",
    "Weighting": "mtl.training.weighting",
    "hookimpl": "mtl.hookspecs",
    "load_bundle": "mtl.model.bundle",
    "load_experiment": "mtl.experiment",
}

__all__ = [
    "Adaptation",
    "Adapter",
    "Aggregation",
    "Backend",
    "Bundle",
    "Combined",
    "Experiment",
    "FeatureAdaptation",
    "FileData",
    "HubData",
    "ListData",
    "MTLError",
    "Metric",
    "Outcome",
    "Protocol",
    "Sampler",
    "Strategy",
    "Task",
    "TaskKind",
    "Weighting",
    "hookimpl",
    "load_bundle",
    "load_experiment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mtl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
