"""Every hook there is. What a plugin can add to mtl, and when it is called, is on this page.

A plugin is any module or object with functions of these names, marked with ``@mtl.hookimpl``. It is found by
an entry point in the group ``mtl``, by ``--plugin module:object``, by ``MTL_PLUGINS``, or by ``plugins:`` in
an experiment. The ``mtl_register_*`` hooks are called once when the plugins of a run are loaded. They declare
only: load no data and no model there. Wherever a thing is registered, ``"module:attribute"`` may stand for it,
and is imported when the thing is first used. Nothing may depend on the order in which plugins are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from mtl.data.batches import Batch
    from mtl.grid.backend import Backend
    from mtl.kind import TaskKind
    from mtl.metrics import Metric
    from mtl.model.adapters import Adapter
    from mtl.model.encoder import Encoder
    from mtl.run import Run
    from mtl.task import Task
    from mtl.training.aggregation import Aggregation
    from mtl.training.sampler import Sampler
    from mtl.training.strategy import StepReport, Strategy
    from mtl.training.weighting import Weighting
    from mtl.transfer.adaptation import Adaptation
    from mtl.transfer.protocol import Protocol

hookspec = pluggy.HookspecMarker("mtl")
hookimpl = pluggy.HookimplMarker("mtl")


@hookspec
def mtl_register_tasks(register: Callable[[Task], None]) -> None:
    """Call ``register(task)`` once per task."""


@hookspec
def mtl_register_kinds(register: Callable[[str, type[TaskKind] | str], None]) -> None:
    """Call ``register(name, kind)`` once per kind of task."""


@hookspec
def mtl_register_metrics(register: Callable[[Metric, Sequence[str]], None]) -> None:
    """Call ``register(metric, kinds)`` once per metric, with the names of the kinds that it measures."""


@hookspec
def mtl_register_strategies(register: Callable[[str, type[Strategy] | str], None]) -> None:
    """Call ``register(name, strategy)`` once per way of learning parameters."""


@hookspec
def mtl_register_weightings(register: Callable[[str, type[Weighting] | str], None]) -> None:
    """Call ``register(name, weighting)`` once per way of weighing the tasks' losses."""


@hookspec
def mtl_register_aggregations(register: Callable[[str, type[Aggregation] | str], None]) -> None:
    """Call ``register(name, aggregation)`` once per way of making one gradient of the tasks' gradients."""


@hookspec
def mtl_register_samplers(register: Callable[[str, type[Sampler] | str], None]) -> None:
    """Call ``register(name, sampler)`` once per way of sharing the examples among the tasks."""


@hookspec
def mtl_register_adaptations(register: Callable[[str, type[Adaptation] | str], None]) -> None:
    """Call ``register(name, adaptation)`` once per way of learning a target from a few examples."""


@hookspec
def mtl_register_adapters(register: Callable[[str, type[Adapter] | str], None]) -> None:
    """Call ``register(name, adapter)`` once per method of adapters in the encoder's layers."""


@hookspec
def mtl_register_protocols(register: Callable[[str, type[Protocol] | str], None]) -> None:
    """Call ``register(name, protocol)`` once per way of choosing what a target is learned from and asked."""


@hookspec
def mtl_register_backends(register: Callable[[str, type[Backend] | str], None]) -> None:
    """Call ``register(name, backend)`` once per way of sending the cells of a grid to processes."""


@hookspec
def mtl_register_encoders(register: Callable[[str, Callable[[], Path] | str], None]) -> None:
    """Call ``register(name, locate)`` once per encoder; ``locate()`` returns its folder in the Hub's layout."""


@hookspec
def mtl_register_experiments(register: Callable[[str, Path], None]) -> None:
    """Call ``register(name, path)`` once per experiment file that ``mtl run NAME`` is to know."""


@hookspec
def mtl_run_start(run: Run) -> None:
    """Be told that a run begins, before data are read."""


@hookspec
def mtl_encoder_loaded(run: Run, encoder: Encoder) -> None:
    """Be told that the shared encoder is there and may be changed in place, before heads are put on it."""


@hookspec
def mtl_batch_ready(run: Run, batch: Batch) -> None:
    """Be shown each batch before the step that learns from it."""


@hookspec
def mtl_step_end(run: Run, group: str, step: int, report: StepReport) -> None:
    """Be told each step's losses and weights. ``group`` names the model in training."""


@hookspec
def mtl_evaluation_end(run: Run, group: str, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Be told the validation metrics of each task."""


@hookspec
def mtl_run_end(run: Run, results: Mapping[str, Any]) -> None:
    """Be told the results, when the run's folder is complete."""


@hookspec
def mtl_run_failed(run: Run, error: BaseException) -> None:
    """Be told that the run stops with ``error``. It goes on from its last checkpoint when started again."""
