"""What seven more heads cost in prediction: ``Bundle.predict`` with 8 tasks beside 1.

Measured: seconds in which ``Bundle.predict`` answers 512 short texts with 8 heads of 4 kinds: three classifications,
two multi-label classifications, a regression and two token classifications. All of a prediction is in it:
tokenising, encoder, heads, decoding, probabilities, JSON.
Against: the same call for the first classification alone; it needs no encoder pass less, so the difference is what
heads and answers cost. The texts are the shortest messages of the bundled corpus, repeated with a number each.
The heads are fitted to labels but not trained. ``O`` is given a head start in the token classifications, so that
about as few words as in real text are tagged; the table says how many entities a text were found.
How: one process, both in turn after a warm-up of each; the ratio is the median over pairs of neighbours.
Target: at most 1.15 times.

    python benchmarks/predict_heads.py
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import Spread

import mtl
from mtl.config import EncoderConfig
from mtl.data.rows import Rows
from mtl.data.sources import load_splits
from mtl.model.bundle import Bundle
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import Plugins, load_plugins

_OUTSIDE_BIAS = 0.6


def example_rows(count: int) -> dict[str, list[Any]]:
    """Return rows from which kinds learn their labels: columns of 77 labels and fewer."""
    return {
        "text": ["unread"] * count,
        "small": [f"label {index % 3}" for index in range(count)],
        "middle": [f"label {index % 20}" for index in range(count)],
        "large": [f"label {index % 77}" for index in range(count)],
        "few": [[f"topic {index % 6}"] for index in range(count)],
        "many": [[f"topic {index % 20}"] for index in range(count)],
        "number": [float(index % 5) for index in range(count)],
        "tokens": [["one", "two"]] * count,
        "tags": [[f"B-type {index % 6}", "O"] for index in range(count)],
        "slots": [[f"B-slot {index % 20}", "O"] for index in range(count)],
    }


#: Task → kind and the column of :func:`example_rows` that has its targets.
TASKS = {
    "small": ("classification", "label", "small"),
    "middle": ("classification", "label", "middle"),
    "large": ("classification", "label", "large"),
    "few": ("multilabel", "label", "few"),
    "many": ("multilabel", "label", "many"),
    "number": ("regression", "label", "number"),
    "entities": ("token-classification", "tags", "tags"),
    "slots": ("token-classification", "tags", "slots"),
}


def make_bundle(plugins: Plugins) -> Bundle:
    """Return a bundle of the eight tasks."""
    columns = example_rows(154)
    kinds = {}
    for name, (kind_name, role, column) in TASKS.items():
        kind = plugins.kinds.get(kind_name)(mtl.Task(name=name, kind=kind_name, data=[]))
        roles = {key: columns[key] for key in kind.roles if key in ("text", "tokens")} | {role: columns[column]}
        kind.fit(Rows(roles, "generated rows", range(1, len(columns[column]) + 1)))
        kinds[name] = kind
    model = MultiTaskModel(measuring.load_minilm(plugins), kinds, lambda name: 0)
    for name, kind in kinds.items():
        if kind.needs_words:
            head: Any = model.head(name)
            with torch.no_grad():
                head.linear.bias[0] += _OUTSIDE_BIAS
    return Bundle(model.eval(), EncoderConfig(name="minilm"), {})


def short_texts(plugins: Plugins, count: int) -> list[str]:
    """Return ``count`` different texts: the shorter half of the bundled messages, over and over."""
    rows = load_splits(plugins.tasks.get("helpdesk/sentiment"), {"text": True, "label": True}, Path.cwd())
    texts = sorted({text for split in rows.values() for text in split.texts("text")}, key=len)
    shorter = texts[: len(texts) // 2]
    return [f"{shorter[index % len(shorter)]} {index}" for index in range(count)]


def profile(bundle: Bundle, texts: Sequence[str]) -> None:
    """Print where the time of a call with all heads goes."""
    profiler = cProfile.Profile()
    profiler.runcall(bundle.predict, texts)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--warm-up", type=int, default=1, help="calls that are not counted")
    parser.add_argument("--profile", action="store_true", help="print where the time of one call goes, and measure nothing")
    parser.set_defaults(repeats=7)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    plugins = load_plugins()
    bundle, texts = make_bundle(plugins), short_texts(plugins, options.texts)
    if options.profile:
        bundle.predict(texts[:8])
        profile(bundle, texts)
        return

    def call(tasks: list[str] | None) -> float:
        with measuring.stopwatch() as figures:
            bundle.predict(texts, tasks)
        return figures["wall"]

    sides = {"1": lambda number: call(["small"]), "8": lambda number: call(None)}
    measuring.interleave(sides, options.warm_up)
    seconds = measuring.interleave(sides, options.repeats)
    entities = sum(len(answer[name]["entities"]) for answer in bundle.predict(texts) for name in ("entities", "slots"))
    ratio = Spread.of([eight / one for one, eight in zip(seconds["1"], seconds["8"], strict=True)])
    spreads = {heads: Spread.of([1000 * value for value in values]) for heads, values in seconds.items()}
    ratios = {"1": "1", "8": ratio.show()}
    rows = [[heads, spread.show(".0f"), ratios[heads]] for heads, spread in spreads.items()]
    shown = measuring.table(["heads", "ms a call", "× 1 head"], rows)
    shown += f"\n\n{len(texts)} texts, {entities / len(texts):.1f} entities found in each by the two token heads together."
    figures = {"milliseconds": spreads, "ratio": ratio, "entities_a_text": entities / len(texts), "seconds": seconds}
    measuring.publish("predict_heads", options, shown, figures)


if __name__ == "__main__":
    main()
