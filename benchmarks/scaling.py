"""How time and memory grow with the number of tasks, of rows, and with the length of the texts.

Measured: a step of joint training (draw, gradients, clipping, AdamW) of MiniLM in float32 without dropout, for 1, 2, 4, …, 32
generated classifications whose rows, of 10 to 40 tokens, are dealt out over mixed batches of 64; for one of 10³, 10⁴, 10⁵ and
10⁶ such rows in memory; and for one whose texts all have 16, 32, …, 512 tokens, 4,096 tokens a batch: milliseconds an example
or a thousand tokens, and the peak memory of the process.
Against: the physical limit, which is the operations that the tokens need (no padding; Chowdhery et al. 2022, arXiv:2204.02311,
appendix B) over the best throughput of products of matrices in the same process. MFU is their part of the time.
How: a fresh process for each figure, the sizes in turn; each makes steps to warm up, then those that are measured.
Rows on disk are measured by ``streaming.py``.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
from measuring import Clock, Spread

if TYPE_CHECKING:
    import mtl

_BATCH, _TOKENS, _LABELS = 64, 4096, 8
_MEGA = 1e6
_WORDS = ("the", "a", "man", "time", "day", "house", "water", "good", "new", "old", "see", "make", "go", "work", "school", "city")


def task_of(number: int, fewest: int, most: int, count: int) -> mtl.Task:
    """Return a classification whose texts are its own, each of so many tokens."""
    import mtl

    rng = random.Random(number)  # noqa: S311  # no secret
    rows = [
        {"text": " ".join(rng.choices(_WORDS, k=rng.randint(fewest, most) - 2)), "label": f"label {row % _LABELS}"}
        for row in range(count)
    ]
    few = rows[:_LABELS]
    return mtl.Task(name=f"task-{number}", kind="classification", data={"train": rows, "validation": few, "test": few})


def child(axis: str, size: int, steps: int, warm_up: int) -> dict[str, float]:
    """Train in this process and return its figures."""
    import torch

    from mtl.components import Builder
    from mtl.config import Choice, EncoderConfig, validate
    from mtl.model.encoder import load_encoder
    from mtl.plugins import load_plugins
    from mtl.training.loop import Trainer
    from mtl.training.strategy import Strategy
    from mtl.training.weighting import TaskLoss

    torch.set_num_threads(measuring.THREADS)
    plugins = load_plugins()
    config = EncoderConfig(name="minilm", max_length=512, dropout=0.0)
    encoder = load_encoder(config, plugins.locate_encoder("minilm"), attention="sdpa")
    fewest, most, batch = (size, size, _TOKENS // size) if axis == "tokens" else (10, 40, _BATCH)
    count = size if axis == "tasks" else 1
    rows = size if axis == "rows" else 2 * batch * (steps + warm_up)  # so that no text comes twice, which would be encoded once
    tasks = [task_of(number, fewest, most, rows) for number in range(count)]
    data = {task.name: measuring.load_task(task, plugins, encoder) for task in tasks}
    model, build, clock = measuring.make_model(encoder, data, 0), Builder(plugins), Clock(warm_up)
    strategy: Strategy = build("strategy", Choice(name="joint"))
    strategy.setup([TaskLoss(name, 1.0, task.kind.likelihood_factor) for name, task in data.items()], build)
    values = {"encoder": "minilm", "tasks": ["unused"], "batch": {"size": batch}, "evaluation": {"times": 0}}
    experiment = validate({**values, "checkpoint": {"every_seconds": 1e9}}, "scaling")
    sampler = build("sampler", Choice(name="uniform"))
    before = measuring.matmul_throughput()
    with tempfile.TemporaryDirectory() as folder, measuring.settings_of_a_run():
        examples = (steps + warm_up) * batch
        Trainer(model, data, strategy, sampler, examples, experiment, Path(folder), clock).train()
    throughput = max(before, measuring.matmul_throughput())
    peak = measuring.peak_memory()
    flops = measuring.training_flops(encoder.backbone.config, clock.tokens, clock.squares)
    figures = {"seconds": clock.seconds, "rows": clock.rows, "tokens": clock.tokens, "places": clock.places}
    return {**figures, "peak": peak, "flops": flops, "throughput": throughput}


def in_fresh_process(axis: str, size: int, options: argparse.Namespace, number: int) -> dict[str, float]:
    """Run :func:`child` in a process of its own."""
    figures: dict[str, float] = measuring.in_fresh_process(__file__, axis, size, options.steps, options.warm_up)
    return figures


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--tasks", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], help="numbers of tasks")
    parser.add_argument("--rows", type=int, nargs="*", default=[10**3, 10**4, 10**5, 10**6], help="numbers of rows")
    parser.add_argument("--lengths", type=int, nargs="*", default=[16, 32, 64, 128, 256, 512], help="tokens of a text")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of a training")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    if options.child:
        axis, *sizes = options.child
        print(json.dumps(child(axis, *map(int, sizes))))
        return
    given = {"tasks": options.tasks, "rows": options.rows, "tokens": options.lengths}
    sizes = [(axis, size) for axis, found in given.items() for size in found]
    sides = {f"{size} {axis}": partial(in_fresh_process, axis, size, options) for axis, size in sizes}
    found, rows, figures = measuring.interleave(sides, options.repeats), [], dict[str, Any]()
    for (axis, size), (side, runs) in zip(sizes, found.items(), strict=True):
        base = found[f"{next(other for name, other in sizes if name == axis)} {axis}"]
        unit, scale = ("tokens", 1e6) if axis == "tokens" else ("rows", 1e3)
        each = [run["seconds"] / run[unit] for run in runs]
        first = [run["seconds"] / run[unit] for run in base]
        utilisation = Spread.of([measuring.utilisation(run["flops"], run["seconds"], run["throughput"]) for run in runs])
        ratio = Spread.of([a / b for a, b in zip(each, first, strict=True)])
        figures[side] = {"ratio": ratio, "utilisation": utilisation, "runs": runs}
        limit = Spread.of([run["flops"] / run["throughput"] / run[unit] for run in runs]).median
        times = [Spread.of([scale * one for one in each]).show(".1f"), f"{scale * limit:.1f}", ratio.show()]
        padding = Spread.of([100 * (1 - run["tokens"] / run["places"]) for run in runs]).median
        peak = Spread.of([run["peak"] / _MEGA for run in runs]).median
        rows.append([f"{size:,} {axis}", *times, utilisation.show(".0f"), f"{padding:.0f}", f"{peak:,.0f}"])
    columns = ["size", "ms an example or 1,000 tokens", "physical limit", "× the first", "MFU, %", "padding, %", "peak, MB"]
    measuring.publish("scaling", options, measuring.table(columns, rows), figures)


if __name__ == "__main__":
    main()
