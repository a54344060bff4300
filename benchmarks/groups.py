"""What padding and passes cost: batches read in groups of similar lengths, by what a group is taken to cost beside its tokens.

Measured: passes of MiniLM, no dropout, over batches of TREC and SUBJ: as joint training draws them, and drawn at random, which
is how peers and episodes have them; forth and back, and forth alone (``--no-back``).
Against: each batch as one pass (``whole``), and other costs than the encoder's own, in tokens: with few, more groups.
How: all sides in turn in one process over the same batches; a first round is not counted, so that what is compiled for every
new shape of a product in bfloat16 is left out.

    DATA=path/to/data python benchmarks/groups.py
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import measuring
from measuring import Spread

if TYPE_CHECKING:
    from torch import Tensor

    from mtl.model.inference import TaskData
    from mtl.plugins import Plugins

_WHOLE = 10**9


def drawn(data: Mapping[str, TaskData], plugins: Plugins, size: int, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield what the encoder is given of the batches of joint training."""
    from mtl.components import Builder
    from mtl.config import Choice, validate

    build = Builder(plugins)
    values = {"encoder": "minilm", "tasks": ["unused"], "batch": {"size": size}, "seed": seed}
    draws = build("strategy", Choice(name="joint")).draws(
        data, build("sampler", Choice(name="uniform")), validate(values, "groups"), 10**6
    )
    for draw in draws:
        yield from (batch.inputs for batch in draw)


def at_random(data: Mapping[str, TaskData], size: int, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of a task each, rows drawn at random."""
    import numpy as np

    from mtl.data.batches import collate

    rng = np.random.default_rng(seed)
    for name, task in itertools.cycle(data.items()):
        rows = rng.choice(len(task.splits["train"]), size, replace=False).tolist()
        yield collate({name: rows}, {name: task.splits["train"]}, {name: task.kind}).inputs


def seconds(encoder: Any, batches: list[Mapping[str, Tensor]], cost: int | None, back: bool, _: int) -> float:
    """Return the time of passes over ``batches`` where a group is taken to ``cost`` so many tokens; ``None``: the encoder's."""
    import torch

    taken = nullcontext() if cost is None else patch.object(encoder, "cost_of_a_pass", lambda _: cost)
    with taken, torch.set_grad_enabled(back), measuring.stopwatch() as clock:
        for inputs in batches:
            pooled = encoder(inputs).pooled
            if back:
                pooled.pow(2).sum().backward()
                encoder.zero_grad(set_to_none=True)
    return clock["wall"]


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32, 64], help="of a batch")
    parser.add_argument("--costs", type=int, nargs="+", default=[0, 32, 64, 256, 512, 1024], help="of a group, in tokens")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the encoder")
    parser.add_argument("--no-back", action="store_true", help="forth alone")
    parser.add_argument("--batches", type=int, default=6, help="in a round")
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    import torch

    from mtl.config import EncoderConfig
    from mtl.model.encoder import load_encoder
    from mtl.plugins import load_plugins

    torch.set_num_threads(measuring.THREADS)
    plugins = load_plugins()
    config = EncoderConfig(name="minilm", dropout=0.0, precision=options.precision)
    encoder = load_encoder(config, plugins.locate_encoder("minilm")).train(not options.no_back)
    data = {task.name: measuring.load_task(task, plugins, encoder) for task in measuring.read_tasks(measuring.data_folder())}
    sides = {"mtl": None, "whole": _WHOLE, **{f"{cost} tokens": cost for cost in options.costs}}
    rows: dict[str, list[str]] = {side: [side] for side in sides}
    figures: dict[str, Any] = {}
    for size in options.rows:
        for what, batches in (("drawn", drawn(data, plugins, size, 0)), ("random", at_random(data, size, 0))):
            taken, back = list(itertools.islice(batches, options.batches)), not options.no_back
            timed = {side: partial(seconds, encoder, taken, cost, back) for side, cost in sides.items()}
            with measuring.settings_of_a_run():
                found = measuring.interleave(timed, 1 + options.repeats)
            for side, times in found.items():
                rows[side].append(Spread.of([a / b for a, b in zip(times[1:], found["mtl"][1:], strict=True)]).show())
            figures[f"{size} {what}"] = found
    columns = ["a group costs", *(f"{size} rows, {what}" for size in options.rows for what in ("drawn", "random"))]
    measuring.publish("groups", options, measuring.table(columns, list(rows.values())), figures)


if __name__ == "__main__":
    main()
