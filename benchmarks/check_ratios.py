"""Whether mtl has become slower beside its peers: short versions of the benchmarks against the ratios that are recorded.

Measured: the ratios below, each greater where mtl is quicker, never times. One that falls by more than a quarter below what
``recorded.json`` has is measured again, three times in all, as machines are noisy; if it is below each time, this ends with exit
code 1.
``--record`` writes the median of three measurements as the new record. Without DATA those that need real data are left out, as
those in bfloat16 are where the processor has none, and it is said.

    DATA=path/to/data python benchmarks/check_ratios.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring

_RECORD = Path(__file__).with_name("recorded.json")
_LEAST, _TRIES = 0.75, 3
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Short:
    """A benchmark in short.

    Args:
        script: Its name.
        options: What makes it short.
        ratios: What is looked at → how it is read from the figures; greater is better. ``None`` where it was not measured.
        needs_data: Whether it reads real data.
    """

    script: str
    options: str
    ratios: Mapping[str, Callable[[Figures], float | None]]
    needs_data: bool = True


def _speed_ratio(figures: Figures, own: str, other: str) -> float | None:
    """Return how many times as many examples a second a side has as another, if both could be run."""
    if own not in figures or other not in figures:
        return None
    return float(figures[own]["examples_per_second"]["median"] / figures[other]["examples_per_second"]["median"])


def _ratio_of_least(figures: Figures, other: str, own: str) -> float:
    """Return how much longer ``other`` takes than ``own`` at their quickest: what else a machine does only adds to a time."""
    return float(min(figures[other]) / min(figures[own]))


SHORT = (
    Short(
        "hf_trainer",
        "--epochs 0.03 --warm-up 2 --test-rows 16 --repeats 2 --memory 0",
        {
            "examples a second beside the Hugging Face Trainer": lambda f: f["mtl"]["ratio"]["median"],
            "examples a second beside the Hugging Face Trainer, by length": lambda f: _speed_ratio(f, "mtl", "hf, by length"),
            "examples a second beside the Hugging Face Trainer, by length, both in bfloat16": lambda f: _speed_ratio(
                f, "mtl, bf16", "hf, by length, bf16"
            ),
        },
    ),
    Short(
        "loop_overhead",
        "--steps 8 --warm-up 2 --repeats 3 --memory 0",
        {"a step beside a bare loop": lambda f: 1 / (1 + f["homogeneous"]["wall"]["overhead"]["median"] / 100)},
    ),
    Short(
        "few_shot_setfit",
        "--tasks trec --shots 4 --test-rows 50 --repeats 1 --memory 0",
        {
            "few-shot learning beside SetFit": lambda f: statistics.median(
                a["learning"] / b["learning"] for a, b in zip(f["trec, 4"]["setfit"], f["trec, 4"]["mtl"], strict=True)
            )
        },
    ),
    Short(
        "scaling",
        "--tasks 1 32 --rows --lengths --steps 5 --warm-up 1 --repeats 3",
        {"an example of 1 task beside one of 32": lambda f: 1 / f["32 tasks"]["ratio"]["median"]},
        needs_data=False,
    ),
    Short(
        "balancing",
        "--tasks 4 --methods upgrad pcgrad --repeats 5",
        {
            f"a joint step beside one of {method}": lambda f, method=method: _ratio_of_least(f["4"]["seconds"], "joint", method)
            for method in ("upgrad", "pcgrad", "upgrad, at once")
        },
        needs_data=False,
    ),
    Short(
        "start_up",
        "--repeats 3",
        {
            "import torch beside mtl --help": lambda f: 1 / f["ratios"]["mtl --help"]["median"],
            "the first step by hand beside mtl's": lambda f: 1 / f["ratios"]["first step, mtl"]["median"],
        },
        needs_data=False,
    ),
)


def measure(short: Short) -> dict[str, float]:
    """Run a benchmark and return its ratios."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name(f"{short.script}.py")
        command = [sys.executable, str(script), *short.options.split(), "--out", folder]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{short.script}.py ended with {done.returncode}:\n{done.stderr[-2000:]}")
        figures = json.loads((Path(folder) / f"{short.script}.jsonl").read_text(encoding="utf-8"))
    found = {name: read(figures) for name, read in short.ratios.items()}
    return {name: value for name, value in found.items() if value is not None}


def _median_of(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(found[name] for found in measured) for name in measured[0]}


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--record", action="store_true", help="take what is measured now as the record")
    parser.add_argument("--only", nargs="+", help="scripts. Default: all")
    options = parser.parse_args()
    recorded = json.loads(_RECORD.read_text(encoding="utf-8")) if _RECORD.is_file() else {}
    rows, fallen = [], []
    for short in SHORT:
        if options.only and short.script not in options.only:
            continue
        if short.needs_data and not os.environ.get("DATA"):
            print(f"{short.script} needs DATA; left out", file=sys.stderr)
            continue
        found = measure(short) if not options.record else _median_of([measure(short) for _ in range(_TRIES)])
        for _ in range(0 if options.record else _TRIES - 1):
            if all(value >= _LEAST * recorded[name] for name, value in found.items()):
                break
            again = measure(short)
            found = {name: max(value, again[name]) for name, value in found.items()}
        for name, value in found.items():
            if options.record:
                recorded[name] = round(value, 3)
            elif value < _LEAST * recorded[name]:
                fallen.append(name)
            rows.append([name, f"{value:.2f}", f"{recorded[name]:.2f}", f"{value / recorded[name]:.2f}"])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    measuring.publish(
        "check_ratios", options, measuring.table(["ratio", "now", "recorded", "part of it"], rows), {"ratios": rows}
    )
    if options.record:
        _RECORD.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if fallen:
        sys.exit(
            f"Fell by more than a quarter: {'; '.join(fallen)}. Look at what the benchmark prints, or --record if it is meant."
        )


if __name__ == "__main__":
    main()
