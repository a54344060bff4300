"""What balancing of gradients costs: a step with each method, a pass for each task or all at once, beside one of ``joint``.

Measured: seconds of ``fill_gradients`` and FLOPs (``torch.utils.flop_counter``), for 2, 4 and 8 classifications with rows
of their own, 64 rows in all, 38 tokens each, as batches are cut from rows of one length: there is no padding that either side
could save. Messages of the bundled corpus, MiniLM, embeddings frozen, no dropout, float32. ``--rows``, ``--tokens`` and
``--precision`` are for other batches.
Against: plain joint training on the same rows, with all tasks in one pass; and with a pass for each (``batch.accumulate``), whose
products of matrices are as small as those of a balanced step.
How: all sides in turn in one process after a warm-up, under the settings of ``mtl run`` (deterministic algorithms, freed memory
kept); ratios between neighbours in time. Targets: at most 1.05 times the FLOPs
of the joint step and 1.35 times its time, with 8 tasks. A method that does not do the same in each step is looked at over as
many as there are from one such step to the next.
MFU: operations that the tokens of a joint step need (no padding; Chowdhery et al. 2022, arXiv:2204.02311, appendix B) over
the time and the best throughput of products of matrices here.

    python benchmarks/balancing.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import measuring
import torch
from measuring import Onlooker, Spread
from torch.utils.flop_counter import FlopCounterMode

from mtl.components import Builder
from mtl.config import Choice, EncoderConfig
from mtl.data.batches import Batch, collate
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.plugins import Plugins, load_plugins
from mtl.training.strategy import Strategy
from mtl.training.weighting import TaskLoss

JOINT, APART = "joint", "joint, a pass for each task"


def draws_of(data: Mapping[str, TaskData], count: int, tokens: int) -> tuple[list[Batch], list[Batch]]:
    """Return one batch of all tasks, and a batch for each; of the same ``count`` rows, of so many ``tokens`` each."""
    features = {name: task.splits["train"] for name, task in data.items()}
    kinds = {name: task.kind for name, task in data.items()}
    long = (next(iter(features.values())).tokenized.input_ids.lengths == tokens).nonzero()[0].tolist()
    if count > len(long):
        sys.exit(f"--rows: the corpus has {len(long)} messages of {tokens} or more tokens. Let --tokens be fewer.")
    rows = {name: long[number : count : len(data)] for number, name in enumerate(data)}
    return [collate(rows, features, kinds)], [collate({name: own}, features, kinds) for name, own in rows.items()]


def make_strategy(plugins: Plugins, choice: Choice, model: Any, data: Mapping[str, TaskData]) -> Strategy:
    """Return a strategy that is ready to make a step."""
    build = Builder(plugins)
    strategy: Strategy = build("strategy", choice)
    strategy.setup([TaskLoss(name, 1.0, task.kind.likelihood_factor) for name, task in data.items()], build)
    strategy.prepare(model)
    return strategy


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8], help="numbers of tasks")
    parser.add_argument("--methods", nargs="+", help="aggregations. Default: all that are registered")
    parser.add_argument("--rows", type=int, default=64, help="of all tasks in a step")
    parser.add_argument("--tokens", type=int, default=38, help="of a row: longer messages are cut, shorter ones left out")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder")
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    throughput = measuring.matmul_throughput(options.precision == "bf16")
    plugins = load_plugins()
    methods = options.methods or list(plugins.aggregations)
    place = plugins.encoders.get("minilm")()
    balanced = {name: Choice(name="balanced", aggregation=name) for name in methods}
    at_once = {f"{name}, at once": Choice(name="balanced-at-once", aggregation=name) for name in methods}
    features = Choice(name="balanced-features", aggregation="mgda")
    choices = {JOINT: Choice(name="joint"), APART: Choice(name="joint"), **balanced, **at_once, "mgda on features": features}
    rows: dict[str, list[str]] = {name: [name] for name in choices}
    figures: dict[str, Any] = {}
    for count in options.tasks:
        config = EncoderConfig(
            name="minilm", freeze="embeddings", dropout=0.0, precision=options.precision, max_length=options.tokens
        )
        encoder = load_encoder(config, place, attention="sdpa" if options.precision == "fp32" else None)
        data = measuring.make_tasks(plugins, encoder, count)
        model = measuring.make_model(encoder, data, 0)
        mixed, apart = draws_of(data, options.rows, options.tokens)
        sides: dict[str, Callable[[int], float]] = {}
        flops: dict[str, int] = {}
        for name, choice in choices.items():
            strategy = make_strategy(plugins, choice, model, data)
            draw = mixed if name == JOINT else apart
            steps = getattr(getattr(strategy, "_aggregation", None), "every", 1)
            with FlopCounterMode(display=False) as counter:
                step(strategy, model, draw, steps)
            flops[name] = int(counter.get_total_flops()) // steps
            sides[name] = partial(_timed, strategy, model, draw, steps)
        with measuring.settings_of_a_run():
            seconds = measuring.interleave(sides, options.repeats)
        seen = Onlooker()
        seen.batch_ready(apart)
        needed = measuring.training_flops(encoder.backbone.config, seen.tokens, seen.squares)
        for name, times in seconds.items():
            ratio = Spread.of([mine / base for mine, base in zip(times, seconds[JOINT], strict=True)])
            shown = f"{1000 * Spread.of(times).median:.0f} ms" if name == JOINT else ratio.show()
            used = Spread.of([measuring.utilisation(needed, each, throughput) for each in times])
            rows[name] += [shown, f"{flops[name] / flops[JOINT]:.2f}", f"{used.median:.0f}"]
        figures[str(count)] = {"seconds": seconds, "flops": flops, "needed": needed, "throughput": throughput}
    columns = ["method", *(f"{what}, {count} tasks" for count in options.tasks for what in ("time", "FLOPs", "MFU, %"))]
    measuring.publish("balancing", options, measuring.table(columns, list(rows.values())), figures)


def _timed(strategy: Strategy, model: Any, draw: list[Batch], steps: int, number: int) -> float:
    return step(strategy, model, draw, steps)


def step(strategy: Strategy, model: Any, draw: list[Batch], steps: int) -> float:
    """Return the seconds of one of ``steps`` steps' gradients, with what the method does after it."""
    seconds = 0.0
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        with measuring.stopwatch() as clock:
            report = strategy.fill_gradients(model, draw)
            strategy.end_step(report, 0.5)
        seconds += clock["wall"]
    return seconds / steps


if __name__ == "__main__":
    main()
