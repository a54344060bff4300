"""A pass forth and back on a CPU: mtl's beside PyTorch's own, and what many shapes of batches cost in memory.

Measured: seconds of a pass of MiniLM forth and back with a dropout of 0.1 and frozen embeddings. "PyTorch" is the ``sdpa`` of
transformers with ``torch.dropout`` and the C library's allocator as it is; "mtl" draws 16 bits for each value that may be
dropped and attends by products (``mtl.model.attention``); "mtl, kept" keeps freed memory too (``mtl.model.heap``), as
``mtl run`` does. MFU is of that last side: operations that the pass needs (Chowdhery et al. 2022, arXiv:2204.02311, appendix
B) over its time and the best throughput of products of matrices of that precision here. And the peak memory of a fresh process
after passes in bfloat16 over batches of drawn shapes, as they come and rounded (``round_shape``). Where the processor has no
bfloat16, float32 alone is measured.
How: the sides in turn in one process after a warm-up, ratios between neighbours; memory by ``ru_maxrss``.

    python benchmarks/cpu_pass.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from contextlib import nullcontext
from typing import Literal

import measuring
import numpy as np
import torch
from measuring import Spread
from torch import Tensor

from mtl.model import precision
from mtl.model.encoder import Encoder
from mtl.model.heap import keeping_freed
from mtl.model.precision import Precision, has_bfloat16
from mtl.plugins import load_plugins

SHAPES = ((105, 16), (32, 64), (16, 128), (16, 256))


def load(attention: Literal["auto", "sdpa"] = "auto") -> Encoder:
    """Load MiniLM, with its dropout, to be trained but for the embeddings."""
    encoder = measuring.load_minilm(load_plugins(), attention)
    encoder.freeze("embeddings")
    return encoder.train()


def passing(encoder: Encoder, rows: int, tokens: int) -> None:
    """Go forth and back over random tokens."""
    ids = torch.randint(1000, 20_000, (rows, tokens))
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    encoder(inputs).pooled.sum().backward()
    encoder.zero_grad(set_to_none=True)


def timed(encoder: Encoder, shape: tuple[int, int], kind: Precision, *, kept: bool) -> float:
    """Return the seconds of three passes."""
    encoder.precision = kind
    with keeping_freed() if kept else nullcontext():
        passing(encoder, *shape)  # so that memory that is to be kept is there
        start = time.perf_counter()
        for _ in range(3):
            passing(encoder, *shape)
        return time.perf_counter() - start


def child(rounded: bool, passes: int) -> float:
    """Return the peak memory of this process after passes over batches of drawn shapes, in megabytes."""
    torch.set_num_threads(measuring.THREADS)
    encoder = load()
    encoder.precision = "bf16"
    if not rounded:
        precision._MOST = 1
    rng = np.random.default_rng(0)
    for _ in range(passes):
        passing(encoder, int(rng.integers(9, 17)), int(rng.integers(10, 40)))
    return measuring.peak_memory() / 1e6


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--passes", type=int, default=100, help="passes of which memory is measured")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    if options.child is not None:
        print(json.dumps(child(bool(options.child), options.passes)))
        return
    bfloat16 = has_bfloat16(torch.device("cpu"))
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if bfloat16 else ("fp32",)
    # First, while this process is small: a child's peak starts from what its parent holds.
    memory = {
        name: measuring.in_fresh_process(__file__, int(rounded), "--passes", options.passes)
        for name, rounded in (("as they come", False), ("rounded", True))
        if bfloat16
    }
    own, plain = load(), load("sdpa")
    ways = {"PyTorch": (plain, False), "mtl": (own, False), "mtl, kept": (own, True)}
    rows, figures = [], {}
    throughput = {kind: measuring.matmul_throughput(kind == "bf16") for kind in precisions}
    for kind, shape in itertools.product(precisions, SHAPES):
        sides = {
            name: lambda number, encoder=encoder, kept=kept, shape=shape, kind=kind: timed(encoder, shape, kind, kept=kept)
            for name, (encoder, kept) in ways.items()
        }
        measuring.interleave(sides, 1)
        seconds = measuring.interleave(sides, options.repeats)
        ratios = [
            Spread.of([a / b for a, b in zip(seconds["PyTorch"], seconds[name], strict=True)]).show() for name in list(ways)[1:]
        ]
        milliseconds = [Spread.of([1000 * value / 3 for value in seconds[name]]).show(".0f") for name in ways]
        needed = 3 * measuring.training_flops(own.backbone.config, shape[0] * shape[1], shape[0] * shape[1] ** 2)
        used = Spread.of([measuring.utilisation(needed, value, throughput[kind]) for value in seconds["mtl, kept"]]).show(".0f")
        rows.append([kind, f"{shape[0]} × {shape[1]}", *milliseconds, *ratios, used])
        figures[f"{kind}, {shape[0]}x{shape[1]}"] = seconds
    columns = [
        "precision",
        "sequences × tokens",
        *(f"{name}, ms" for name in ways),
        "× as fast: mtl",
        "× as fast: mtl, kept",
        "MFU, %",
    ]
    table = measuring.table(columns, rows)
    if memory:
        shown = [[name, f"{megabytes:,.0f}"] for name, megabytes in memory.items()]
        table += "\n\n" + measuring.table([f"shapes of {options.passes} passes", "peak, MB"], shown)
    measuring.publish("cpu_pass", options, table, {"seconds": figures, "memory": memory})


if __name__ == "__main__":
    main()
