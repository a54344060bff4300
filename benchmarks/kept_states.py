"""What it saves to keep on disk what leaves the frozen layers: a run with ``encoder.cache`` beside the same run without.

Measured: seconds of the training steps, and of the whole run, of joint training on the bundled corpus with four of MiniLM's six
layers frozen, without dropout: without a cache, with an empty one, and with one that an earlier run has filled.
Against: the run without a cache. A text's way through four frozen layers is a third of a step's operations or more: a step
is 6 layers forth and 2 back (about 10 layers' worth), and 2 forth and 2 back (about 6) with the cache.
How: fresh folders, one process, all sides in turn; ratios between neighbours in time. MFU is the part that the operations so
counted (no padding; Chowdhery et al. 2022, arXiv:2204.02311, appendix B) have of the steps' time, over the best throughput of
products of matrices in the same process. An empty cache is filled before the first step.

    python benchmarks/kept_states.py
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
from measuring import Onlooker, Spread

import mtl
from mtl.files import read_json

if TYPE_CHECKING:
    from mtl.data.batches import Batch
    from mtl.model.encoder import Encoder
    from mtl.run import Run

_FROZEN = 4


class Seen(Onlooker):
    """A plugin that counts what a run learns from."""

    config: Any

    @mtl.hookimpl
    def mtl_encoder_loaded(self, run: Run, encoder: Encoder) -> None:
        """Know the encoder's sizes, and count from here."""
        self.config = encoder.backbone.config
        self.tokens = self.squares = 0

    @mtl.hookimpl
    def mtl_batch_ready(self, run: Run, batch: Batch) -> None:
        """Count a batch."""
        self.count(batch.inputs["attention_mask"], batch.rows)


seen = Seen()


def run(folder: Path, states: Path, cache: float) -> dict[str, float]:
    """Return the seconds of a run and of its steps, and the operations that the steps need."""
    os.environ["MTL_CACHE"] = str(states)
    experiment = mtl.Experiment.of(
        name="kept",
        encoder={"name": "minilm", "freeze": _FROZEN, "cache": cache, "dropout": 0},
        tasks=["helpdesk/intent", "helpdesk/sentiment", "helpdesk/urgency", "helpdesk/entities"],
        sampler="uniform",
        budget={"epochs": 4},
        batch={"size": 32},
        evaluation={"times": 2},
        threads=measuring.THREADS,
        output=str(folder),
        plugins=["__main__:seen"],
    )
    finished = experiment.run()
    found = read_json(finished.folder / "timing.json", mtl.MTLError)
    flops = measuring.training_flops(seen.config, seen.tokens, seen.squares, frozen=_FROZEN, kept=cache > 0)
    return {"steps": sum(found["training_seconds"].values()), "run": found["wall_seconds"], "flops": flops}


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
        before = measuring.matmul_throughput()
        found = measuring.interleave(sides, options.repeats)
        throughput = max(before, measuring.matmul_throughput())
    rows = []
    for name, figures in found.items():
        row = [name]
        for what in ("steps", "run"):
            times = [each[what] for each in figures]
            ratio = Spread.of([base[what] / mine[what] for mine, base in zip(figures, found["no cache"], strict=True)])
            row += [Spread.of(times).show(".1f"), ratio.show()]
        shares = [measuring.utilisation(each["flops"], each["steps"], throughput) for each in figures]
        rows.append([*row, Spread.of(shares).show(".0f")])
    columns = ["side", "steps, s", "× as fast", "whole run, s", "× as fast", "MFU of the steps, %"]
    measuring.publish("kept_states", options, measuring.table(columns, rows), {"seconds": found, "throughput": throughput})


if __name__ == "__main__":
    main()
