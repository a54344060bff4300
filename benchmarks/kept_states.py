"""What it saves to keep on disk what leaves the frozen layers: a run with ``encoder.cache`` beside the same run without.

Measured: seconds of the training steps, and of the whole run, of joint training on the bundled corpus with four of MiniLM's six
layers frozen, without dropout: without a cache, with an empty one, and with one that an earlier run has filled.
Against: the run without a cache. A text's way through four frozen layers is a third of a step's operations or more: a step
is 6 layers forth and 2 back (about 10 layers' worth), and 2 forth and 2 back (about 6) with the cache.
How: fresh folders, one process, all sides in turn; ratios between neighbours in time.

    python benchmarks/kept_states.py
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measuring
from measuring import Spread

import mtl
from mtl.files import read_json


def run(folder: Path, states: Path, cache: float) -> dict[str, float]:
    """Return the seconds of a run and of its steps."""
    os.environ["MTL_CACHE"] = str(states)
    experiment = mtl.Experiment.of(
        name="kept",
        encoder={"name": "minilm", "freeze": 4, "cache": cache, "dropout": 0},
        tasks=["helpdesk/intent", "helpdesk/sentiment", "helpdesk/urgency", "helpdesk/entities"],
        sampler="uniform",
        budget={"epochs": 4},
        batch={"size": 32},
        evaluation={"times": 2},
        threads=measuring.THREADS,
        output=str(folder),
    )
    finished = experiment.run()
    found = read_json(finished.folder / "timing.json", mtl.MTLError)
    return {"steps": sum(found["training_seconds"].values()), "run": found["wall_seconds"]}


def side(base: Path, name: str, cache: float, filled: bool, number: int) -> dict[str, float]:
    """Run one side in folders of its own; what is to be filled is filled by a run before the clock starts."""
    states = base / f"states-{name}-{number}"
    if filled:
        run(base / f"before-{number}", states, cache)
    return run(base / f"{name}-{number}", states, cache)


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        sides: dict[str, Any] = {
            "no cache": partial(side, base, "none", 0.0, False),
            "empty cache": partial(side, base, "empty", 1.0, False),
            "filled cache": partial(side, base, "filled", 1.0, True),
        }
        run(base / "warm-up", base / "states", 0.0)
        found = measuring.interleave(sides, options.repeats)
    rows = []
    for name, figures in found.items():
        row = [name]
        for what in ("steps", "run"):
            times = [each[what] for each in figures]
            ratio = Spread.of([base[what] / mine[what] for mine, base in zip(figures, found["no cache"], strict=True)])
            row += [Spread.of(times).show(".1f"), ratio.show()]
        rows.append(row)
    columns = ["side", "steps, s", "× as fast", "whole run, s", "× as fast"]
    measuring.publish("kept_states", options, measuring.table(columns, rows), {"seconds": found})


if __name__ == "__main__":
    main()
