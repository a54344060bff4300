"""What sharing by adapters costs: weights that are trained, room on disk, and the time of a step, for each method.

Measured: a step of joint training (gradients and AdamW) on one mixed batch of 32 messages of the bundled corpus, dealt over 4
classifications, MiniLM, no dropout, float32; weights of the encoder and heads that are trained; what one task more adds to a
bundle; and the bundle on disk. Adapters are on a frozen encoder, shared by all tasks or one for each; so are branches (the
last two layers of each task) and vectors of tasks. Heads that read a mix of all layers are on an encoder that is trained.
Against: joint training of the whole encoder, and of heads alone on a frozen one.
How: all sides in turn in one process after a warm-up; ratios between neighbours in time. MFU: FLOPs of the side's own step
(``torch.utils.flop_counter``, padding in it) over the time and the best throughput of products of matrices here.

    python benchmarks/sharing.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Spread
from torch.utils.flop_counter import FlopCounterMode

from mtl.components import Builder
from mtl.config import Choice, EncoderConfig
from mtl.data.batches import Batch, collate
from mtl.model.bundle import Bundle
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.model.origin import Origin, hash_of
from mtl.plugins import Plugins, load_plugins
from mtl.training.strategy import Strategy
from mtl.training.weighting import TaskLoss

ROWS = 32
WHOLE, HEADS = "whole encoder", "heads alone"


class Side:
    """One way of sharing, ready to make steps.

    Args:
        plugins: Bring the encoder and the methods.
        choice: The adapters; ``None`` for none.
        freeze: See ``encoder.freeze``.
        tasks: How many tasks there are.
        mix: See ``encoder.mix``.
    """

    def __init__(self, plugins: Plugins, choice: Choice | None, freeze: Any, tasks: int, *, mix: bool = False) -> None:
        build = Builder(plugins)
        self.config = EncoderConfig(name="minilm", freeze=freeze, dropout=0.0, adapter=choice, mix=mix)
        encoder = load_encoder(self.config, plugins.locate_encoder("minilm"), attention="sdpa")
        encoder.origin = Origin("minilm", hash_of(encoder))
        if choice is not None:
            encoder.put(build("adapter", choice))
        self.data = measuring.make_tasks(plugins, encoder, tasks)
        self.model: MultiTaskModel = measuring.make_model(encoder, self.data, 0).train()
        self.batch = mixed_batch(self.data)
        self.strategy: Strategy = build("strategy", Choice(name="joint"))
        self.strategy.setup([TaskLoss(name, 1.0, task.kind.likelihood_factor) for name, task in self.data.items()], build)
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(1e-4, 1e-3, 0.01), fused=True)

    def step(self, number: int) -> float:
        """Return the seconds of one step."""
        with measuring.stopwatch() as clock:
            report = self.strategy.fill_gradients(self.model, [self.batch])
            adapters = self.model.encoder.adapters
            if adapters is not None:
                adapters.before_step()
            self.optimizer.step()
            if adapters is not None:
                adapters.after_step(0.5)
            self.optimizer.zero_grad(set_to_none=True)
            self.strategy.end_step(report, 0.5)
        return clock["wall"]

    def sizes(self) -> dict[str, float]:
        """Return what is trained, what a task adds, and the bundle on disk, in weights and bytes."""
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        first = next(iter(self.data))
        with tempfile.TemporaryDirectory() as folder:
            Bundle(self.model, self.config, {}).save(Path(folder))
            stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        own = sum(parameter.numel() * parameter.element_size() for parameter in self.model.own(first))
        return {"trained": trained, "task": own, "bundle": stored}


def mixed_batch(data: Mapping[str, TaskData]) -> Batch:
    """Return one batch with as many rows of every task."""
    each = ROWS // len(data)
    rows = {name: range(number * each, (number + 1) * each) for number, name in enumerate(data)}
    features = {name: task.splits["train"] for name, task in data.items()}
    return collate(rows, features, {name: task.kind for name, task in data.items()})


def sides_of(plugins: Plugins, methods: list[str], tasks: int) -> dict[str, Side]:
    """Return every way of sharing that is compared."""
    found = {
        WHOLE: Side(plugins, None, "none", tasks),
        f"{WHOLE}, layers mixed": Side(plugins, None, "none", tasks, mix=True),
        HEADS: Side(plugins, None, "all", tasks),
    }
    for name in methods:
        if not Builder(plugins)("adapter", Choice(name=name)).per_task:
            found[f"{name}, for all"] = Side(plugins, Choice(name=name), "all", tasks)
        found[f"{name}, one a task"] = Side(plugins, Choice(name=name, per_task=True), "all", tasks)
    return found


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=4, help="number of tasks")
    parser.add_argument("--methods", nargs="+", help="adapters. Default: all that are registered")
    parser.set_defaults(repeats=9)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    plugins = load_plugins()
    sides = sides_of(plugins, options.methods or list(plugins.adapters), options.tasks)
    sizes = {name: side.sizes() for name, side in sides.items()}
    steps: dict[str, Callable[[int], float]] = {name: side.step for name, side in sides.items()}
    throughput, flops = measuring.matmul_throughput(), {}
    for name, step in steps.items():  # the warm-up
        with FlopCounterMode(display=False) as counter:
            step(0)
        flops[name] = int(counter.get_total_flops())
    seconds = measuring.interleave(steps, options.repeats)
    rows = []
    for name, times in seconds.items():
        ratio = Spread.of([mine / base for mine, base in zip(times, seconds[WHOLE], strict=True)])
        of = sizes[name]
        shown = [f"{of['trained']:,.0f}", f"{of['task'] / 2**10:,.0f}", f"{of['bundle'] / 2**20:.1f}"]
        used = Spread.of([measuring.utilisation(flops[name], each, throughput) for each in times])
        rows.append([name, *shown, f"{1000 * Spread.of(times).median:.0f}", ratio.show(), f"{used.median:.0f}"])
    columns = ["shared", "weights trained", "kB a task more", "bundle, MB", "step, ms", "beside the whole encoder", "MFU, %"]
    figures = {"seconds": seconds, "sizes": sizes, "flops": flops, "throughput": throughput}
    measuring.publish("sharing", options, measuring.table(columns, rows), figures)


if __name__ == "__main__":
    main()
