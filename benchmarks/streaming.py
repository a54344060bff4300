"""How memory and the time to the first step grow with the rows of a data set that stays on disk.

Measured: a process that runs a whole experiment (reading, tokenising, 20 steps of joint training on batches of 32, testing,
writing the bundle) on a generated classification task of 10^4, 10^5, … rows up to ``--rows``, with ``stream: true``: its
peak memory (``ru_maxrss``), the peak of what is its own and not a page of a mapped file, which the system may take back
(``RssAnon``, looked at ten times a second), and the seconds from its start to the end of the first step; the first time and
again, when the tokens are in the cache. Against: the same rows in memory, up to ``--in-memory`` of them.
MFU: operations that the tokens of the steps after the first need (no padding; Chowdhery et al. 2022, arXiv:2204.02311,
appendix B) over their time and the best throughput of products of matrices in the process.
Target: its own memory is the same whatever the number of rows.
How: a fresh process for each figure. The encoder is random and tiny, as the model is not what is measured.

    python benchmarks/streaming.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measuring

_STARTED = time.perf_counter()
_FEWEST = 10_000
_SMALL = 200
_STEPS, _BATCH = 20, 32
_MEGA = 1e6
_WORDS = [
    f"{start}{end}" for start in ("ba", "do", "fi", "gu", "ke", "lo", "mi", "nu") for end in ("t", "n", "ra", "sel", "m", "p")
]


def generate(path: Path, rows: int) -> None:
    """Write rows of 5 to 20 words and one of eight labels, one after the other."""
    rng = random.Random(rows)  # noqa: S311  # no secret
    with path.open("w") as stream:
        for number in range(rows):
            words = " ".join(rng.choices(_WORDS, k=rng.randint(5, 20)))
            stream.write(json.dumps({"text": f"{words} {number}", "label": f"label {number % 8}"}) + "\n")


class Onlooker:
    """Keeps when the first step ended, and the most memory of the process's own."""

    def __init__(self) -> None:
        self.first_step = 0.0
        self.own = 0
        self.over = threading.Event()

    def watch(self) -> None:
        """Look at the memory until it is over."""
        while not self.over.wait(0.1):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.own = max(self.own, int(lines["RssAnon"].split()[0]) * 1024)


ONLOOKER = Onlooker()


def child(folder: Path, rows: int, stream: bool) -> dict[str, float]:
    """Run the experiment in this process and return its figures, in bytes and seconds."""
    os.environ["MTL_CACHE"] = f"{folder}/cache-{stream}"
    os.environ["HF_DATASETS_CACHE"] = f"{folder}/datasets"
    import torch
    from transformers import BertConfig

    import mtl
    from mtl.testing.encoder import tiny_encoder

    class Plugin:
        @mtl.hookimpl
        def mtl_step_end(self, step: int) -> None:
            if step == 1:
                ONLOOKER.first_step = time.perf_counter() - _STARTED

    clock = measuring.Clock(warm_up=1)
    globals()["PLUGIN"], globals()["CLOCK"] = Plugin(), clock.plugin()
    torch.set_num_threads(measuring.THREADS)
    encoder = tiny_encoder(folder / "encoder", _WORDS)
    thread = threading.Thread(target=ONLOOKER.watch)
    thread.start()
    files = {
        "train": str(folder / f"{rows}.jsonl"),
        "validation": str(folder / "small.jsonl"),
        "test": str(folder / "small.jsonl"),
    }
    try:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            mtl.Experiment.of(
                encoder={"name": str(encoder), "max_length": 32},
                tasks=[{"name": "generated", "kind": "classification", "data": {"files": files, "stream": stream}}],
                budget={"examples_per_task": _STEPS * _BATCH},
                batch={"size": _BATCH},
                evaluation={"times": 0},
                threads=measuring.THREADS,
                output=output,
                plugins=[f"{__name__}:PLUGIN", f"{__name__}:CLOCK"],
            ).run()
    finally:
        ONLOOKER.over.set()
        thread.join()
    peak, config = measuring.peak_memory(), BertConfig.from_pretrained(encoder)
    return {"peak": peak, "own": ONLOOKER.own, "first_step": ONLOOKER.first_step, "utilisation": clock.utilisation(config)}


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="the most rows")
    parser.add_argument("--in-memory", type=int, default=100_000, help="the most rows that are also read into memory")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, rows, stream = options.child
        print(json.dumps(child(Path(folder), int(rows), bool(int(stream)))))
        return
    sizes, shown, figures = [], [], dict[str, Any]()
    size = min(_FEWEST, options.rows)
    while size < options.rows:
        sizes.append(size)
        size *= 10
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        folder = Path(place)
        generate(folder / "small.jsonl", _SMALL)
        for size in [*sizes, options.rows]:
            generate(folder / f"{size}.jsonl", size)
            for stream in (True, False) if size <= options.in_memory else (True,):
                first, again = (measuring.in_fresh_process(__file__, folder, size, int(stream)) for _ in range(2))
                side = "on disk" if stream else "in memory"
                figures[f"{size} {side}"] = {"first": first, "again": again}
                memory = [f"{value / _MEGA:,.0f}" for value in (max(first["peak"], again["peak"]), first["own"], again["own"])]
                used = [f"{(first['utilisation'] + again['utilisation']) / 2:.0f}"]
                shown.append([side, f"{size:,}", *memory, f"{first['first_step']:.1f}", f"{again['first_step']:.1f}", *used])
                print(f"  {size} {side} done", file=sys.stderr, flush=True)
            (folder / f"{size}.jsonl").unlink()
    columns = ["rows are", "rows", "peak, MB", "its own, MB", "its own, again, MB", "first step after, s", "again, s", "MFU, %"]
    measuring.publish("streaming", options, measuring.table(columns, shown), figures)


if __name__ == "__main__":
    main()
