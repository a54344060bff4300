"""Bfloat16 on a CPU: what fused attention costs on the way back, and what many shapes of batches cost in memory.

Measured: seconds of a pass of MiniLM forth and back without dropout, with the fused kernel and with attention by matrix
products, which mtl takes there (``mtl.model.precision.computing``); and the peak memory of a fresh process after passes over
batches of drawn shapes, as they come and rounded to 4 sequences and 8 tokens (``round_shape``).
How: the sides in turn in one process after a warm-up, ratios between neighbours; memory by ``ru_maxrss``.

    python benchmarks/bfloat16.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import measuring
import numpy as np
import torch
from measuring import Spread
from torch import Tensor

from mtl.model import precision
from mtl.model.encoder import Encoder
from mtl.plugins import load_plugins

SHAPES = ((105, 16), (32, 64), (16, 128))


def load() -> Encoder:
    """Load MiniLM in bfloat16, without dropout and with frozen embeddings."""
    encoder = measuring.load_minilm(load_plugins())
    encoder.precision = "bf16"
    encoder.freeze("embeddings")
    return encoder.eval()


def passing(encoder: Encoder, rows: int, tokens: int) -> None:
    """Go forth and back over random tokens."""
    ids = torch.randint(1000, 20_000, (rows, tokens))
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    encoder(inputs).pooled.sum().backward()
    encoder.zero_grad(set_to_none=True)


def timed(encoder: Encoder, shape: tuple[int, int], attention: Callable[[], AbstractContextManager[None]]) -> float:
    """Return the seconds of a pass with an attention in the place of mtl's choice."""
    chosen, precision.attention_by_products = precision.attention_by_products, attention  # type: ignore[assignment]
    try:
        start = time.perf_counter()
        passing(encoder, *shape)
        return time.perf_counter() - start
    finally:
        precision.attention_by_products = chosen


def child(rounded: bool, passes: int) -> float:
    """Return the peak memory of this process after passes over batches of drawn shapes, in bytes."""
    torch.set_num_threads(measuring.THREADS)
    encoder = load()
    if not rounded:
        precision._ROWS = precision._TOKENS = 1
    rng = np.random.default_rng(0)
    for _ in range(passes):
        passing(encoder, int(rng.integers(9, 17)), int(rng.integers(10, 40)))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_fresh_process(rounded: bool, passes: int) -> float:
    """Return what :func:`child` says, in megabytes."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(int(rounded)), "--passes", str(passes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])) / 1e6


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--passes", type=int, default=100, help="passes of which memory is measured")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=7)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    if options.child is not None:
        print(json.dumps(child(bool(options.child), options.passes)))
        return
    # First, while this process is small: a child's peak starts from what its parent holds.
    memory = {name: in_fresh_process(rounded, options.passes) for name, rounded in (("as they come", False), ("rounded", True))}
    encoder, ways = load(), {"fused": nullcontext, "by products": precision.attention_by_products}
    rows, figures = [], {}
    for shape in SHAPES:
        sides = {name: lambda number, shape=shape, way=way: timed(encoder, shape, way) for name, way in ways.items()}
        measuring.interleave(sides, 1)
        seconds = measuring.interleave(sides, options.repeats)
        ratio = Spread.of([a / b for a, b in zip(seconds["fused"], seconds["by products"], strict=True)])
        milliseconds = [Spread.of([1000 * value for value in seconds[name]]).show(".0f") for name in ways]
        rows.append([f"{shape[0]} × {shape[1]}", *milliseconds, ratio.show()])
        figures[f"{shape[0]}x{shape[1]}"] = seconds
    table = measuring.table(["sequences × tokens", "fused, ms", "by products, ms", "fused ÷ by products"], rows)
    shown = [[name, f"{megabytes:,.0f}"] for name, megabytes in memory.items()]
    table += "\n\n" + measuring.table([f"shapes of {options.passes} passes", "peak, MB"], shown)
    measuring.publish("bfloat16", options, table, {"seconds": figures, "memory": memory})


if __name__ == "__main__":
    main()
