"""What mtl's training loop costs beside a bare PyTorch loop.

Measured: seconds of ``Trainer.train()`` with the strategy ``joint`` on TREC and SUBJ with MiniLM, no evaluations, no
checkpoints, under the settings of ``mtl run``; it draws and collates its batches and writes its log in that time.
Against: the loop in ``bare_loop`` below, with the same model, heads, initial weights, AdamW groups, rate schedule and
clipping on the same batches. They are drawn and collated before its clock starts, so the comparison is as hard on
mtl as it can be. Both sides draw the same dropout; at the end their weights are compared. Freed memory is kept on both.
How: one process, both sides in turn after a warm-up of each; the overhead is the median over pairs of neighbours.
Homogeneous batches (one task each) and mixed ones are measured apart. Target: an overhead of at most 5 %.
MFU: operations that the tokens need (no padding; Chowdhery et al. 2022, arXiv:2204.02311, appendix B) over the time and the
best throughput of products of matrices here. Peak memory is that of a fresh process for each side that makes a few steps.

    DATA=path/to/data python benchmarks/loop_overhead.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Onlooker, Spread
from torch import Tensor, nn

from mtl.components import Builder
from mtl.config import Choice, ExperimentConfig, OptimizerConfig, validate
from mtl.data.batches import Batch, collate
from mtl.model.heap import keeping_freed
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import Plugins, load_plugins
from mtl.seeds import seed_of
from mtl.training.loop import Trainer
from mtl.training.schedule import Schedule
from mtl.training.strategy import Strategy
from mtl.training.weighting import TaskLoss

State = dict[str, Tensor]
SIDES = ("bare", "mtl")


class Silent:
    """A watcher that looks away."""

    def batch_ready(self, draw: Any) -> None:
        """Look away."""

    def step_end(self, step: int, examples: int, report: Any) -> None:
        """Look away."""

    def evaluation_end(self, step: int, metrics: Any) -> None:
        """Look away."""


def bare_loop(model: MultiTaskModel, batches: Sequence[Batch], config: OptimizerConfig) -> None:
    """Train on ready batches with nothing but PyTorch, as one would write it for these two tasks alone."""
    groups = model.parameter_groups(config.learning_rate, config.head_learning_rate, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    parameters = [parameter for group in groups for parameter in group["params"]]
    peaks = [group["lr"] for group in optimizer.param_groups]
    total, seen = sum(batch.rows for batch in batches), 0
    backbone, heads = model.encoder.backbone, {name: model.head(name) for name in model.kinds}
    model.train()
    optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        progress = (seen + batch.rows / 2) / total
        factor = progress / config.warmup if progress < config.warmup else (1 - progress) / (1 - config.warmup)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        mask = batch.inputs["attention_mask"]
        weights = mask.unsqueeze(-1).float()
        pooled = (backbone(**batch.inputs).last_hidden_state * weights).sum(1) / weights.sum(1)
        losses = []
        for name, part in batch.parts.items():
            own = pooled if part.index is None else pooled[part.index]
            head: Any = heads[name]
            loss = nn.functional.cross_entropy(head.linear(head.dropout(own)), part.columns["label"])
            losses.append(part.rows / batch.rows * loss)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(parameters, config.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += batch.rows


class Bench:
    """Both sides on one model, each from the same initial weights.

    Args:
        data: The tasks.
        model: The model; its present weights are where every training begins.
        config: The experiment.
        plugins: Bring strategy and sampler.
        examples: Rows that a training learns from.
    """

    def __init__(
        self, data: Mapping[str, TaskData], model: MultiTaskModel, config: ExperimentConfig, plugins: Plugins, examples: int
    ) -> None:
        self.data, self.model, self.config, self.examples = data, model, config, examples
        self.build = Builder(plugins)
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        self.final: dict[str, State] = {}
        features = {name: task.splits["train"] for name, task in data.items()}
        kinds = {name: task.kind for name, task in data.items()}
        schedule = Schedule(features, self._sampler(), config.batch, examples, config.seed)
        self.batches = [collate(rows, features, kinds) for rows in schedule]

    def _sampler(self) -> Any:
        return self.build("sampler", Choice(name="proportional"))

    def bare(self, number: int) -> dict[str, float]:
        """Time the bare loop."""
        self.model.load_state_dict(self.initial)
        torch.manual_seed(seed_of(self.config.seed, "dropout"))
        with keeping_freed(), measuring.stopwatch() as figures:
            bare_loop(self.model, self.batches, self.config.optimizer)
        self._keep("bare")
        return figures

    def mtl(self, number: int) -> dict[str, float]:
        """Time mtl's loop."""
        self.model.load_state_dict(self.initial)
        strategy: Strategy = self.build("strategy", Choice(name="joint"))
        strategy.setup([TaskLoss(name, 1.0, task.kind.likelihood_factor) for name, task in self.data.items()], self.build)
        with tempfile.TemporaryDirectory() as folder, measuring.settings_of_a_run():
            trainer = Trainer(
                self.model, self.data, strategy, self._sampler(), self.examples, self.config, Path(folder), Silent()
            )
            with measuring.stopwatch() as figures:
                trainer.train()
        if trainer.progress.step != len(self.batches):
            raise RuntimeError(f"mtl made {trainer.progress.step} steps, the bare loop {len(self.batches)}.")
        self._keep("mtl")
        return figures

    def _keep(self, side: str) -> None:
        self.final[side] = {name: value.clone() for name, value in self.model.state_dict().items()}

    def difference(self) -> float:
        """Return the largest difference between the weights that the two sides ended with."""
        bare, ours = self.final["bare"], self.final["mtl"]
        return max(float((bare[name] - ours[name]).abs().max()) for name in bare if bare[name].is_floating_point())


def experiment(size: int, mixed: bool) -> ExperimentConfig:
    """Return the experiment that both sides carry out."""
    values = {
        "encoder": "minilm",
        "tasks": ["unused"],
        "batch": {"size": size, "mixed": mixed},
        "evaluation": {"times": 0},
        "checkpoint": {"every_seconds": 1e9},
    }
    return validate(values, "loop_overhead")


class Both:
    """Both sides with batches made in one way.

    Args:
        options: Of the command line.
        mixed: Whether a batch has rows of both tasks.
    """

    def __init__(self, options: argparse.Namespace, mixed: bool) -> None:
        self.plugins, self.size = load_plugins(), options.batch_size
        self.encoder = measuring.load_minilm(self.plugins)
        tasks = measuring.read_tasks(measuring.data_folder())
        self.data = {task.name: measuring.load_task(task, self.plugins, self.encoder) for task in tasks}
        self.model = measuring.make_model(self.encoder, self.data, seed=0)
        self.config = experiment(self.size, mixed)

    def of(self, steps: int) -> Bench:
        """Return what trains for so many steps."""
        return Bench(self.data, self.model, self.config, self.plugins, steps * self.size)


def measure(options: argparse.Namespace, mixed: bool, throughput: float) -> dict[str, Any]:
    """Measure one way of making batches."""
    both = Both(options, mixed)
    warm_up = both.of(options.warm_up)
    measuring.interleave({"bare": warm_up.bare, "mtl": warm_up.mtl}, 1)
    both.model.load_state_dict(warm_up.initial)
    bench = both.of(options.steps)
    sides = measuring.interleave({"bare": bench.bare, "mtl": bench.mtl}, options.repeats)
    seen = Onlooker()
    seen.batch_ready(bench.batches)
    flops = measuring.training_flops(both.encoder.backbone.config, seen.tokens, seen.squares)
    figures: dict[str, Any] = {"steps": len(bench.batches), "largest_difference_of_weights": bench.difference()}
    for side, runs in sides.items():
        figures[side] = {
            "examples_per_second": Spread.of([seen.rows / run["wall"] for run in runs]),
            "utilisation": Spread.of([measuring.utilisation(flops, run["wall"], throughput) for run in runs]),
        }
    for clock in ("wall", "processor"):
        bare, ours = ([run[clock] for run in sides[side]] for side in ("bare", "mtl"))
        figures[clock] = {
            "bare": Spread.of([1000 * value / len(bench.batches) for value in bare]),
            "mtl": Spread.of([1000 * value / len(bench.batches) for value in ours]),
            "overhead": Spread.of([100 * (b / a - 1) for a, b in zip(bare, ours, strict=True)]),
        }
    return figures | {"seconds": sides}


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps of one training")
    parser.add_argument("--warm-up", type=int, default=5, help="steps of the warm-up of each side")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--memory", type=int, default=1, help="whether the peak memory of each side is measured")
    parser.add_argument("--mixed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    if options.child is not None:
        getattr(Both(options, options.mixed).of(options.warm_up), options.child)(0)
        print(json.dumps(measuring.peak_memory()))
        return
    # First, while this process is small: a child's peak starts from what its parent holds.
    same = ("--warm-up", options.warm_up, "--batch-size", options.batch_size)
    ways = {"homogeneous": (), "mixed": ("--mixed",)}
    memory = {
        f"{name}, {side}": measuring.in_fresh_process(__file__, side, *same, *way) / 1e6
        for name, way in ways.items()
        for side in SIDES
        if options.memory
    }
    throughput = measuring.matmul_throughput()
    figures = {name: measure(options, bool(way), throughput) for name, way in ways.items()}
    rows, speeds = [], []
    for name, found in figures.items():
        for clock in ("wall", "processor"):
            cells = found[clock]
            difference = f"{found['largest_difference_of_weights']:.1e}"
            rows.append([f"{name}, {clock} time", *(cells[side].show(".1f") for side in (*SIDES, "overhead")), difference])
        for side in SIDES:
            speed, used = found[side]["examples_per_second"], found[side]["utilisation"]
            peak = f"{memory[f'{name}, {side}']:,.0f}" if memory else "–"
            speeds.append([f"{name}, {side}", speed.show(".1f"), used.show(".0f"), peak])
    columns = ["batches", "bare loop, ms a step", "mtl, ms a step", "overhead, %", "largest difference of weights"]
    shown = measuring.table(columns, rows)
    shown += "\n\n" + measuring.table(["batches, side", "examples a second", "MFU, %", "peak, MB"], speeds)
    measuring.publish("loop_overhead", options, shown, {**figures, "peak_megabytes": memory, "throughput": throughput})


if __name__ == "__main__":
    main()
