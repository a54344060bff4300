"""How long mtl takes to answer, and to make its first step.

Measured: seconds of whole processes, ``mtl --help``, ``mtl run --help`` and ``mtl tasks``, and
the seconds from the start of a process to the end of the first step of a joint training on two tasks of the corpus with MiniLM,
their tokens in the cache.
Against: a bare interpreter; ``import torch``; and a process that imports torch and transformers, loads the same weights, and
makes one step on a batch of the same size by hand: what no framework can be quicker than.
How: all sides in turn, a fresh process each, after a round that warms the disk. Targets: ``--help`` and ``tasks`` sooner than
``import torch``; the first step at most twice that of the bare process.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measuring
from measuring import Spread

BARE_STEP = """
import sys, time
import torch
from transformers import AutoModel, AutoTokenizer
torch.set_num_threads({threads})
tokenizer = AutoTokenizer.from_pretrained({place!r}, local_files_only=True)
model = AutoModel.from_pretrained({place!r}, local_files_only=True, add_pooling_layer=False).train()
head = torch.nn.Linear(384, 8)
optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-4, fused=True)
batch = tokenizer(["my router does not start since the last update, what can I do?"] * 32, return_tensors="pt")
torch.nn.functional.cross_entropy(head(model(**batch).last_hidden_state.mean(1)), torch.arange(32) % 8).backward()
optimizer.step()
print(time.time())
"""

MTL_STEP = """
import sys, time
import mtl

class Plugin:
    @mtl.hookimpl
    def mtl_step_end(self, step):
        if step == 1:
            print(time.time())

PLUGIN = Plugin()
sys.modules["start_up_plugin"] = sys.modules["__main__"]
mtl.Experiment.of(
    encoder="minilm", tasks=["helpdesk/intent", "helpdesk/sentiment"], budget={{"examples_per_task": 32}}, batch={{"size": 32}},
    evaluation={{"times": 0}}, threads={threads}, output={output!r}, plugins=["start_up_plugin:PLUGIN"],
).run()
"""


def whole(*command: str) -> float:
    """Return the seconds that a process takes."""
    with measuring.stopwatch() as clock:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return clock["wall"]


def until_step(code: str) -> float:
    """Return the seconds from the start of a process to the time that it prints."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(next(line for line in done.stdout.splitlines() if line.replace(".", "").isdigit())) - start


def until_mtl_step(folder: Path) -> float:
    """Return the seconds to the first step of a new run."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        return until_step(MTL_STEP.format(threads=measuring.THREADS, output=output))


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    from mtl.plugins import load_plugins

    mtl = str(Path(sys.executable).with_name("mtl"))
    place = str(load_plugins().locate_encoder("minilm"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MTL_CACHE"] = f"{folder}/cache"
        bare = BARE_STEP.format(threads=measuring.THREADS, place=place)
        sides: dict[str, Callable[[], float]] = {
            "python": partial(whole, sys.executable, "-c", "pass"),
            "import torch": partial(whole, sys.executable, "-c", "import torch"),
            "mtl --help": partial(whole, mtl, "--help"),
            "mtl run --help": partial(whole, mtl, "run", "--help"),
            "mtl tasks": partial(whole, mtl, "tasks"),
            "first step, by hand": partial(until_step, bare),
            "first step, mtl": partial(until_mtl_step, Path(folder)),
        }
        called = {side: lambda number, run=run: run() for side, run in sides.items()}
        measuring.interleave(called, 1)
        seconds = measuring.interleave(called, options.repeats)
    rows, ratios = [], {}
    for side, times in seconds.items():
        base = seconds["first step, by hand" if side.startswith("first step") else "import torch"]
        ratios[side] = Spread.of([own / other for own, other in zip(times, base, strict=True)])
        rows.append([side, Spread.of(times).show(), ratios[side].show()])
    columns = ["process", "seconds", "× import torch, or × by hand"]
    measuring.publish("start_up", options, measuring.table(columns, rows), {"seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    main()
