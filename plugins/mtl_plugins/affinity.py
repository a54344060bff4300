"""Affinity of tasks: how far their gradients on the shared encoder point the same way, over training.

Not in use by itself, as it costs a backward pass a task at every evaluation: name it under ``plugins`` in an experiment, or
with ``--plugin mtl_plugins.affinity``. It changes no result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

import mtl
from mtl.errors import CheckpointError
from mtl.files import read_json, write_json

if TYPE_CHECKING:
    from mtl.data.batches import Batch
    from mtl.run import Run

#: The last batch of each task of the training at work. A process trains one model at a time.
_BATCHES: dict[str, Batch] = {}


@mtl.hookimpl
def mtl_encoder_loaded(run: Run) -> None:
    """Forget the model before."""
    _BATCHES.clear()


@mtl.hookimpl
def mtl_batch_ready(run: Run, batch: Batch) -> None:
    """Remember the last batch of each task."""
    _BATCHES.update(dict.fromkeys(batch.parts, batch))


@mtl.hookimpl
def mtl_evaluation_end(run: Run, group: str, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Write down the cosines of the gradients of every two tasks (Yu et al. 2020, arXiv:2001.06782, definition 1)."""
    model = run.model
    tasks = sorted(task for task in _BATCHES if task in model.kinds)
    shared = list(model.encoder.shared().values())
    if len(tasks) < 2 or not shared or not run.strategy.trains_heads:
        return
    was_training = model.training
    model.eval()  # no dropout: the generator is left where it is, and the run as it would be
    rows = []
    for task in tasks:
        batch = _BATCHES[task]
        loss = model.loss(task, model(batch)[task], batch)
        gradients = torch.autograd.grad(loss, shared, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, shared, strict=True)]
        rows.append(torch.nn.functional.normalize(torch.cat([each.flatten() for each in flat]), dim=0))
    model.train(was_training)
    directions = torch.stack(rows)
    look = {"step": step, "tasks": tasks, "cosines": (directions @ directions.T).tolist()}
    path = run.model_folder / "affinity.json"
    before = read_json(path, CheckpointError)["looks"] if path.is_file() else []
    write_json(path, {"looks": [*(each for each in before if each["step"] < step), look]})  # a killed run looks again
