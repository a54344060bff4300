"""The files of a new plugin, as texts with places to be filled in."""

from __future__ import annotations

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{package}"
version = "0.1.0"
description = "{summary}"
requires-python = ">=3.10"
dependencies = ["mtl"]

[project.entry-points.mtl]
{module} = "{module}"

[tool.setuptools]
packages = ["{module}"]

[tool.setuptools.package-data]
{module} = ["data/*"]
"""

README = """\
# {package}

{summary}.

```sh
pip install -e .
pytest
mtl plugins
```

Made by `mtl new`. What is in it is used by its name, `{name}`.
"""

TEST = '''\
"""What comes with the package keeps the contract of mtl."""

from mtl.testing import assert_keeps_contract


def test_it_keeps_the_contract():
    assert_keeps_contract("{name}", plugins=["{module}"])
'''

TASK = '''\
"""{summary}."""

from pathlib import Path

import mtl

TASK = mtl.Task(
    name="{name}",
    kind="{kind}",
    data=str(Path(__file__).parent / "data" / "{file}"),
    columns={columns},
    description="{summary}",
)


@mtl.hookimpl
def mtl_register_tasks(register):
    """Bring the task."""
    register(TASK)
'''

PART = '''\
"""{summary}."""

import mtl


@mtl.hookimpl
def mtl_register_{plural}(register):
    """Bring it."""
    register("{name}", "{module}.{what}:{cls}")
'''

KIND_MODULE = '''\
"""{summary}: change what is marked by arrows."""

import numpy as np
from torch import nn

import mtl
from mtl.metrics import sklearn_metric
from mtl.model.heads import PooledHead


class {cls}(mtl.TaskKind):
    """A number for a text, by its distance; a unit is a row."""

    roles = {{"text": True, "label": True}}  # <- the columns it reads
    metrics = (mtl.Metric("mae", sklearn_metric("mean_absolute_error"), higher_is_better=False, best=0.0),)
    middle = 0.0

    @classmethod
    def sample(cls):
        return {{"data": [{{"text": f"{{'very ' * number}}good", "label": float(number)}} for number in range(8)]}}

    def fit(self, rows):  # <- what is learned from train before training
        self.middle = float(np.median(self.read(rows)))

    @property
    def state(self):
        return {{"middle": self.middle}}

    def load_state(self, state):
        self.middle = state["middle"]

    def requests(self, rows):  # <- what the encoder reads
        return rows.texts("text", max_words=self.task.max_words)

    def targets(self, rows, tokenized):
        return {{"label": self.read(rows)}}

    def head(self, hidden):
        return PooledHead(hidden, 1)

    def loss(self, outputs, batch):  # <- a mean per predicted unit
        return nn.functional.smooth_l1_loss(outputs.squeeze(-1), batch["label"])

    def decode(self, outputs, batch):
        return outputs.squeeze(-1).tolist()

    def gold(self, features):
        return features.columns["label"].tolist()

    def trivial(self):
        return self.middle

    def read(self, rows):
        for index, value in enumerate(rows["label"]):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise rows.error(index, f"label is {{value!r:.60}}; a number is needed. Mend or remove the row.")
        return np.asarray(rows["label"], dtype=np.float32)
'''

STRATEGY_MODULE = '''\
"""{summary}: change what is marked by an arrow."""

from dataclasses import dataclass

import torch

import mtl
from mtl.training.strategy import StepReport


@dataclass
class {cls}(mtl.Strategy):
    """Train one model on the mean of the tasks' losses.

    Args:
        sharpness: Losses are raised to this power before the mean.
    """

    sharpness: float = 1.0

    def fill_gradients(self, model, draw):
        report = StepReport()
        for batch in draw:
            outputs = model(batch)
            losses = {{name: model.loss(name, outputs[name], batch) for name in batch.parts}}
            mean = torch.stack([loss**self.sharpness for loss in losses.values()]).mean()  # <- how tasks are brought together
            torch.autograd.backward(mean / len(draw))
            report.losses |= {{name: loss.detach() for name, loss in losses.items()}}
        return report
'''

SAMPLER_MODULE = '''\
"""{summary}: change what is marked by an arrow."""

from dataclasses import dataclass

import mtl


@dataclass
class {cls}(mtl.Sampler):
    """Draw every task in proportion to a power of its rows, which goes to 0 in the course of training.

    Args:
        power: At the beginning.
    """

    power: float = 1.0

    def shares(self, sizes, progress):
        power = self.power * (1 - progress)
        return {{task: rows**power for task, rows in sizes.items()}}  # <- of any common scale
'''

WEIGHTING_MODULE = '''\
"""{summary}: change what is marked by arrows."""

from dataclasses import dataclass

import mtl


@dataclass
class {cls}(mtl.Weighting):
    """Weigh each task by one over a running mean of its loss, so that all count alike.

    Args:
        memory: How much of the mean is kept at a step, from 0 to 1.
    """

    memory: float = 0.9

    def setup(self, tasks):
        super().setup(tasks)
        self._means = dict.fromkeys(self.tasks, 1.0)

    def weigh(self, task, loss):  # <- linear in the loss
        return self.tasks[task].weight * loss / self._means[task]

    def weights(self):
        return {{name: about.weight / self._means[name] for name, about in self.tasks.items()}}

    def end_step(self, losses, progress):  # <- what is learned from the losses of a step
        for task, loss in losses.items():
            self._means[task] = self.memory * self._means[task] + (1 - self.memory) * max(float(loss), 1e-6)

    def state_dict(self):
        return dict(self._means)

    def load_state_dict(self, state):
        self._means = dict(state)
'''

AGGREGATION_MODULE = '''\
"""{summary}: change what is marked by an arrow."""

from dataclasses import dataclass

import mtl


@dataclass
class {cls}(mtl.Aggregation):
    """Take the mean of the tasks' gradients after each is given a length nearer to their mean length.

    Args:
        evenness: 0 leaves the lengths as they are, 1 makes them equal.
    """

    evenness: float = 1.0

    def combine(self, jacobian, losses, gramian):
        lengths = gramian.diagonal().sqrt().clamp_min(1e-12)
        weights = (lengths.mean() / lengths) ** self.evenness / len(lengths)  # <- how tasks are brought together
        return mtl.Combined(weights @ jacobian, weights)
'''

ADAPTATION_MODULE = '''\
"""{summary}: change what is marked by an arrow."""

from dataclasses import dataclass

import torch

import mtl
from mtl.meta.closed_form import Linear
from mtl.transfer.adaptation import refuse_values


@dataclass
class {cls}(mtl.FeatureAdaptation):
    """Answer with the class whose mean feature has the largest product with a text's.

    Args:
        scale: Of the outputs; it changes probabilities, not answers.
    """

    scale: float = 10.0

    def fit(self, features, answers, outputs, names):
        refuse_values(answers, "{name}")
        rows = [features[answers == place].mean(0) for place in range(outputs)]  # <- a row of weights for each class
        weight = self.scale * torch.stack(rows)
        return Linear(weight, weight.new_zeros(outputs))
'''

TRACKER = '''\
"""{summary}."""

import json

import mtl


@mtl.hookimpl
def mtl_step_end(run, group, step, report):
    """Write the losses of each step; send them elsewhere instead."""
    losses = {{name: float(loss) for name, loss in report.losses.items()}}
    with (run.folder / "{module}.jsonl").open("a") as stream:
        stream.write(json.dumps({{"group": group, "step": step, "losses": losses}}) + "\\n")


@mtl.hookimpl
def mtl_run_end(run, results):
    """Write the results of each task."""
    with (run.folder / "{module}.jsonl").open("a") as stream:
        values = {{name: task.get("value") for name, task in results["tasks"].items()}}
        stream.write(json.dumps({{"results": values}}) + "\\n")
'''

TRACKER_TEST = '''\
"""The tracker writes what it is told."""

import json
from types import SimpleNamespace

import {module}


def test_losses_and_results_are_written(tmp_path):
    run = SimpleNamespace(folder=tmp_path)
    {module}.mtl_step_end(run, "joint", 1, SimpleNamespace(losses={{"mood": 0.5}}))
    {module}.mtl_run_end(run, {{"tasks": {{"mood": {{"value": 0.9}}}}}})
    lines = [json.loads(line) for line in (tmp_path / "{module}.jsonl").read_text().splitlines()]
    assert lines == [{{"group": "joint", "step": 1, "losses": {{"mood": 0.5}}}}, {{"results": {{"mood": 0.9}}}}]
'''
