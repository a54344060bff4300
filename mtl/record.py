"""What a run writes down of itself: its configuration, environment, data, time and results."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

import mtl
from mtl.config import ExperimentConfig
from mtl.data.rows import Rows
from mtl.errors import CheckpointError, DataError, MTLError
from mtl.files import read_json, write_json, write_text
from mtl.model.inference import TaskData, evaluate_trivial, skill_of
from mtl.results import RESULTS_VERSION, command

_LOG = logging.getLogger(__name__)


def describe(folder: Path, config: ExperimentConfig, plugins: Mapping[str, str]) -> None:
    """Write down what is run, where and with which plugins, before it begins."""
    plain = config.model_dump(mode="json", exclude={"compare"})
    write_text(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    write_json(folder / "environment.json", _environment() | {"plugins": dict(plugins)})


def check_fingerprints(folder: Path, data: Mapping[str, TaskData]) -> None:
    """Write the fingerprints of the data down, or compare them with those of the first start.

    Raises:
        DataError: If data have changed since.
    """
    found = {
        name: {
            split: {"source": features.rows.source, "rows": len(features), "fingerprint": features.rows.fingerprint}
            for split, features in task.splits.items()
        }
        for name, task in data.items()
    }
    rows = {name: {split: features.rows for split, features in task.splits.items()} for name, task in data.items()}
    if changed := changed_data(folder, rows):
        raise DataError(
            f"{changed} has changed since this run was started. Remove {folder} to start again, or give the experiment "
            "another name."
        )
    write_json(folder / "data.json", found)


def warn_of_changes(folder: Path, read: Callable[[], Mapping[str, Mapping[str, Rows]]]) -> None:
    """Warn where the results of a finished run are of other rows than there are now, or nothing can be said of that.

    Args:
        folder: Of the run.
        read: Returns task → split → rows.
    """
    try:
        changed = changed_data(folder, read())
    except MTLError as error:
        _LOG.warning("%s is finished; whether its data are as they were cannot be said: %s", folder, error)
        return
    if changed:
        _LOG.warning("%s has changed since this run was finished. Remove %s to run again", changed, folder)


def changed_data(folder: Path, data: Mapping[str, Mapping[str, Rows]]) -> str:
    """Name the first task with the source of it that has changed since a run was started; empty if none has.

    Args:
        folder: Of the run.
        data: Task → split → rows.
    """
    path = folder / "data.json"
    before = read_json(path, CheckpointError) if path.is_file() else {}
    for name, splits in data.items():
        for split, rows in splits.items():
            if before.get(name, {}).get(split, {"fingerprint": rows.fingerprint})["fingerprint"] != rows.fingerprint:
                return f"Task {name!r}: {rows.source}"
    return ""


def summarize(
    config: ExperimentConfig, data: Mapping[str, TaskData], groups: Mapping[str, Any], overlaps: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a run's results: every task's metrics, the models behind them, and transfer to the targets.

    Args:
        config: The experiment.
        data: The source tasks.
        groups: For each model its test metrics, its steps and examples, and its transfer.
        overlaps: Source → target → how many training rows are in the target too; of a bundle, how many of the target's rows
            it was trained on. Of a target itself, how many queries have the words of a row of their own support.
    """
    tests = {name: values for group in groups.values() for name, values in group["tasks"].items()}
    seen = {name: count for group in groups.values() for name, count in group.get("examples_by_task", {}).items()}
    tasks = {}
    trivial = {name: evaluate_trivial(task, "test") for name, task in data.items() if name in tests}
    shown = [task for name, task in data.items() if name in tests]
    tests = {name: {key: _number(value) for key, value in values.items()} for name, values in tests.items()}
    skills = skill_of(shown, tests, trivial)
    for task in shown:
        metric = task.kind.primary_metric
        tasks[task.name] = {
            "kind": task.kind.task.kind,
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "value": tests[task.name][metric.name],
            "trivial": trivial[task.name][metric.name],
            "skill": skills[task.name],
            "rows": {split: len(features) for split, features in task.splits.items()},
            "dropped": {split: count for split, count in task.dropped.items() if count},
            "examples_seen": seen.get(task.name, 0),
            "test": tests[task.name],
        }
    models = {
        name: {
            key: group[key] for key in ("steps", "examples", "passes", "parameters", "best_step", "stopped_early") if key in group
        }
        for name, group in groups.items()
    }
    return {
        "version": RESULTS_VERSION,
        "experiment": config.name,
        "hash": config.hash,
        "strategy": config.strategy.name,
        "seed": config.seed,
        "tasks": tasks,
        "models": models,
        "targets": {name: group["transfer"] for name, group in groups.items()} if config.targets else {},
        "overlaps": dict(overlaps),
    }


class Stopwatch:
    """What a run has taken since this was made. CPU time says more than wall time where others share the machine."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.process_time()

    def read(self) -> dict[str, Any]:
        """Return seconds by the wall and of the processor, and the most memory that the process has had."""
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "wall_seconds": round(time.monotonic() - self._wall, 1),
            "process_cpu_seconds": round(time.process_time() - self._processor, 1),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        }


def _environment() -> dict[str, Any]:
    packages = ("transformers", "datasets", "scikit-learn", "numpy")
    return {
        "mtl": mtl.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "float32_products": torch.get_float32_matmul_precision(),
        "command": command(),
        "packages": {"torch": torch.__version__, **{name: version(name) for name in packages}},
    }


def _number(value: Any) -> Any:
    """Take JSON's null for an undefined figure back as NaN."""
    return float("nan") if value is None else value
