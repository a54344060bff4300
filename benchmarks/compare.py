"""What a comparison costs beside its trainings: statistics and report of a large grid, and scheduling of trivial cells.

Measured: seconds, processor time and peak memory (``ru_maxrss``) of statistics and report of a made-up grid, each time in a
fresh process, and the size of the page; and milliseconds a cell whose run ends at once, all else being overhead.
Targets: 1,000 cells × 600 episodes in 10 s and 1 GB, the page in 5 MB; 50 ms a cell for 200 trivial cells in two processes.

    python benchmarks/compare.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import measuring
import numpy as np
from measuring import Spread


def made_up_grid(folder: Path, methods: int, seeds: int, episodes: int) -> None:
    """Write a finished grid whose figures are drawn at random: one target, ``methods`` columns."""
    cells = []
    for method in range(methods):
        for seed in range(seeds):
            name = f"method-{method:03d}-{seed}"
            rng = np.random.default_rng(seed)
            figures = (rng.normal(0.6, 0.1, episodes) + 0.001 * method + rng.normal(0, 0.01)).tolist()
            transfer = {"figures": {"target": {"prototype": {"5": figures}}}, "chosen": {}, "metric": {"target": "accuracy"}}
            model = {"steps": 10, "examples": 1000, "passes": 1000, "parameters": 100}
            results = {
                "version": 3,
                "experiment": "large",
                "hash": name,
                "strategy": "none" if method == 0 else f"method-{method:03d}",
                "seed": seed,
                "tasks": {},
                "models": {"joint": model},
                "targets": {"joint": transfer},
            }
            (folder / name).mkdir(parents=True)
            (folder / name / "results.json").write_text(json.dumps(results))
            (folder / name / "timing.json").write_text('{"wall_seconds": 1, "training_seconds": {"joint": 1.0}}')
            cells.append({"point": {"strategy": results["strategy"], "seed": seed}, "folder": name, "error": None})
    (folder / "comparison.json").write_text(json.dumps({"experiment": "large", "axes": {}, "cells": cells}))


def report(methods: int, seeds: int, episodes: int) -> dict[str, float]:
    """Measure statistics and report of a grid that is made up, in this process."""
    from mtl.report.write import read_folder, write_all

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made_up_grid(folder, methods, seeds, episodes)
        with measuring.stopwatch() as clock:
            write_all(folder, *read_folder(folder))
        return {
            "statistics and report, s": clock["wall"],
            "processor time, s": clock["processor"],
            "peak memory, MB": measuring.peak_memory() / 1e6,
            "page, MB": (folder / "report.html").stat().st_size / 1e6,
        }


def scheduling(cells: int, jobs: int) -> dict[str, float]:
    """Measure what a trivial cell costs: its run raises at once, and all else is overhead."""
    from mtl.config import validate
    from mtl.grid.cell import Cell
    from mtl.grid.execute import execute
    from mtl_plugins.loky import Loky

    with tempfile.TemporaryDirectory() as name:
        values = {"encoder": "no/such-encoder", "tasks": ["no-such-task"], "threads": 1}

        def made(first: int, count: int) -> list[Cell]:
            configs = [validate({**values, "seed": seed}, "benchmark") for seed in range(first, first + count)]
            return [Cell({"seed": each.seed}, each, Path(name) / each.hash) for each in configs]

        execute(made(0, jobs), Loky(), jobs=jobs, threads=1, plugins=[])  # processes start and import once
        with measuring.stopwatch() as clock:
            execute(made(1000, cells), Loky(), jobs=jobs, threads=1, plugins=[])
    return {"scheduling, ms a cell": 1000 * clock["wall"] / cells}


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--methods", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--cells", type=int, default=200, help="trivial ones")
    parser.add_argument("--jobs", type=int, default=2, help="processes that they are run in")
    parser.add_argument("--child", nargs=3, type=int, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(report(*options.child)))
        return
    grid = (options.methods, options.seeds, options.episodes)
    sides = {
        "report": lambda number: measuring.in_fresh_process(__file__, *grid),
        "scheduling": lambda number: scheduling(options.cells, options.jobs),
    }
    found = measuring.interleave(sides, options.repeats)
    figures = {name: [each[name] for each in rounds] for rounds in found.values() for name in rounds[0]}
    rows = [[name, Spread.of(values).show()] for name, values in figures.items()]
    measuring.publish("compare", options, measuring.table(["", "median (smallest–largest)"], rows), {"figures": figures})


if __name__ == "__main__":
    main()
