"""Tokens by the tokenizer's own threads, as mtl makes them, beside worker processes.

Measured: texts a second of ``mtl.data.tokenizer.Tokenizer`` without its cache, on generated texts of 5 to 30 words.
Against: ``datasets.Dataset.map`` with the same tokenizer, batched, in one process and in as many as there are threads, without
``datasets``' cache; and mtl's with the tokenizer's threads switched off.
How: the sides in turn in one process after a warm-up; ratios between neighbours in time.

    python benchmarks/tokenizing.py
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
from datasets import Dataset, disable_caching
from datasets.utils.logging import disable_progress_bar
from measuring import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = ("router", "update", "the", "refund", "unbelievable", "password", "of", "internationalisation", "since", "my", "blue")
_LONGEST = 128


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--texts", type=int, default=100_000, help="texts a round")
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    disable_caching()
    disable_progress_bar()
    from mtl.plugins import load_plugins

    tokenizer = measuring.load_minilm(load_plugins()).tokenizer
    rng = random.Random(0)  # noqa: S311  # no secret
    texts = [" ".join(rng.choices(_WORDS, k=rng.randint(5, 30))) for _ in range(options.texts)]

    def mapped(processes: int | None) -> float:
        def encode(rows: dict[str, Any]) -> Any:
            return tokenizer.backend(rows["text"], truncation=True, max_length=_LONGEST, return_attention_mask=False)

        with tempfile.TemporaryDirectory() as folder, threads(on=processes is None):
            data = Dataset.from_dict({"text": texts})
            with measuring.stopwatch() as clock:
                data.map(encode, batched=True, num_proc=processes, cache_file_name=str(Path(folder) / "tokens.arrow"))
        return clock["wall"]

    def own(on: bool) -> float:
        with threads(on=on), measuring.stopwatch() as clock:
            tokenizer.uncached(texts, words=False)
        return clock["wall"]

    sides: dict[str, Callable[[int], float]] = {
        "mtl, threads": lambda number: own(True),
        "mtl, one thread": lambda number: own(False),
        "datasets.map, threads": lambda number: mapped(None),
        f"datasets.map, {measuring.THREADS} processes": lambda number: mapped(measuring.THREADS),
    }
    measuring.interleave(sides, 1)
    seconds = measuring.interleave(sides, options.repeats)
    rows = []
    for side, times in seconds.items():
        ratio = Spread.of([base / mine for mine, base in zip(times, seconds["mtl, threads"], strict=True)])
        rows.append([side, f"{options.texts / Spread.of(times).median:,.0f}", ratio.show()])
    columns = ["side", "texts a second", "× mtl, threads"]
    measuring.publish("tokenizing", options, measuring.table(columns, rows), {"seconds": seconds})


@contextmanager
def threads(on: bool) -> Iterator[None]:
    """Let the tokenizer use its own threads, or not."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if on else "false"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = before or "true"


if __name__ == "__main__":
    main()
