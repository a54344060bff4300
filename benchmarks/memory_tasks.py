"""How memory and the size of a bundle grow with the number of tasks.

Measured: the peak memory (``ru_maxrss``) of a process that runs a whole experiment (reading, training four steps of
joint, mixed batches, testing, writing the bundle) with 2, 5, 10, 20 and 50 tasks, and the size of its bundle.
Against: the smallest number of tasks. If all share one encoder, what is added is heads and data only. Each task has
32 generated training rows and as many for validation and test, and a linear head of 8 labels on MiniLM's 384 numbers:
3,080 parameters, 12 kB on disk and four times that in training (weights, gradients and AdamW's two moments). A step
learns from 64 rows whatever the number of tasks. MFU: operations that the tokens of the steps after the first need (no padding;
Chowdhery et al. 2022, arXiv:2204.02311, appendix B) over their time and the best throughput of products of matrices there.
How: a fresh process for each figure, the numbers of tasks in turn, the first round a warm-up that is not counted.

    python benchmarks/memory_tasks.py
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import Any

import measuring
from measuring import Spread

_LABELS = 8
_ROWS = 32
_STEPS = 4
_BATCH = 64
_MEGA = 1e6


def generated_task(number: int) -> dict[str, Any]:
    """Return a task whose rows are its own."""
    rows = [
        {"text": f"message {index} of team {number} about subject {index % _LABELS}", "label": f"subject {index % _LABELS}"}
        for index in range(3 * _ROWS)
    ]
    splits = {split: rows[place * _ROWS : (place + 1) * _ROWS] for place, split in enumerate(("train", "validation", "test"))}
    return {"name": f"team-{number}", "kind": "classification", "data": splits}


def child(tasks: int) -> dict[str, float]:
    """Run the experiment in this process and return its figures in bytes."""
    import torch

    import mtl

    torch.set_num_threads(measuring.THREADS)
    clock = measuring.Clock(warm_up=1)
    globals()["PLUGIN"] = clock.plugin()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MTL_CACHE"] = f"{folder}/cache"
        finished = mtl.Experiment.of(
            encoder="minilm",
            tasks=[generated_task(number) for number in range(tasks)],
            strategy="joint",
            batch={"size": _BATCH},
            budget={"epochs": _STEPS * _BATCH / (tasks * _ROWS)},
            evaluation={"times": 0},
            threads=measuring.THREADS,
            output=f"{folder}/runs",
            plugins=[f"{__name__}:PLUGIN"],
        ).run()
        peak = measuring.peak_memory()
        bundle = finished.folder / "models" / "joint"
        sizes = {path.name: path.stat().st_size for path in bundle.rglob("*") if path.is_file()}
        steps = finished.runs[0]["results"]["models"]["joint"]["steps"]
        used = clock.utilisation(mtl.load_bundle(bundle).model.encoder.backbone.config)
    found = {"peak": peak, "bundle": sum(sizes.values()), "heads": sizes["heads.safetensors"]}
    return {**found, "steps": steps, "utilisation": used}


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 5, 10, 20, 50], help="numbers of tasks")
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=2)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child)))
        return
    sides = {str(tasks): lambda number, tasks=tasks: measuring.in_fresh_process(__file__, tasks) for tasks in options.tasks}
    measuring.interleave(sides, options.warm_up)
    found = measuring.interleave(sides, options.repeats)
    fewest, rows, figures = options.tasks[0], [], {}
    first = Spread.of([run["peak"] / _MEGA for run in found[str(fewest)]]).median
    for tasks in options.tasks:
        runs = found[str(tasks)]
        peak, bundle, heads = (Spread.of([run[key] / _MEGA for run in runs]) for key in ("peak", "bundle", "heads"))
        used = Spread.of([run["utilisation"] for run in runs])
        figures[str(tasks)] = {"peak_megabytes": peak, "bundle_megabytes": bundle, "heads_megabytes": heads, "runs": runs}
        above = "–" if tasks == fewest else f"{peak.median - first:+,.0f}"
        sizes = [f"{4 * heads.median:.2f}", f"{bundle.median:.2f}", f"{heads.median:.2f}", used.show(".0f")]
        rows.append([str(tasks), peak.show(",.0f"), above, *sizes])
    above = f"above {fewest} tasks, MB"
    columns = ["tasks", "peak, MB", above, "heads in training (4 × weights), MB", "bundle, MB", "of it heads, MB", "MFU, %"]
    measuring.publish("memory_tasks", options, measuring.table(columns, rows), figures)


if __name__ == "__main__":
    main()
