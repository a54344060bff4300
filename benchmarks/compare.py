"""What a comparison costs beside its trainings: statistics and report of a large grid, and scheduling of trivial cells.

    python benchmarks/compare.py

Budgets: 1,000 cells × 600 episodes in 10 s and 1 GB, the page in 5 MB; 50 ms a cell for 200 trivial cells in two processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


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


def report(methods: int, seeds: int, episodes: int) -> dict[str, Any]:
    """Measure statistics and report of a grid that is made up."""
    from mtl.report.write import read_folder, write_all

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made_up_grid(folder, methods, seeds, episodes)
        started, cpu = time.perf_counter(), time.process_time()
        write_all(folder, *read_folder(folder))
        seconds = time.perf_counter() - started
        return {
            "cells": methods * seeds,
            "episodes": episodes,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "page_megabytes": round((folder / "report.html").stat().st_size / 1e6, 2),
        }


def scheduling(cells: int, jobs: int) -> dict[str, Any]:
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
        started = time.perf_counter()
        execute(made(1000, cells), Loky(), jobs=jobs, threads=1, plugins=[])
        seconds = time.perf_counter() - started
    return {"cells": cells, "jobs": jobs, "seconds": round(seconds, 2), "milliseconds_a_cell": round(1000 * seconds / cells, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps({"report": report(arguments.methods, arguments.seeds, arguments.episodes)}))
    print(json.dumps({"scheduling": scheduling(arguments.cells, arguments.jobs)}))
