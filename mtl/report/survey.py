"""A look at tasks before they are trained: sizes, lengths, labels, examples, and rows that are there twice."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.data.rows import Rows
from mtl.data.sources import load_splits
from mtl.files import write_text
from mtl.metrics import Array
from mtl.plugins import Plugins
from mtl.report.page import Section, write_sections
from mtl.report.tables import Table
from mtl.task import Task

_MOST_NAMES, _EXAMPLES, _SHOWN = 30, 3, 90
_BAR, _BINS = 24, 8
#: Near-duplicates are looked for among so many rows of a split; the work grows with their square.
_COMPARED, _ALIKE = 3000, 0.9


class Survey:
    """The rows of some tasks.

    Args:
        tasks: The tasks.
        plugins: That bring their kinds.
        base: The folder that relative paths start from.

    Raises:
        DataError: If the rows of a task cannot be read.
    """

    def __init__(self, tasks: Sequence[Task], plugins: Plugins, base: Path) -> None:
        self._kinds = {task.name: plugins.kinds.get(task.kind) for task in tasks}
        self._rows: dict[str, Mapping[str, Rows]] = {
            task.name: {str(split): rows for split, rows in load_splits(task, dict(self._kinds[task.name].roles), base).items()}
            for task in tasks
        }

    def parts(self) -> Iterator[tuple[str, list[Table]]]:
        """Yield the name of every task with its tables, and of what tasks share."""
        for name, splits in self._rows.items():
            texts = {split: self._texts(name, rows) for split, rows in splits.items()}
            roles = [role for role in self._kinds[name].target_roles if role in splits["train"]]
            values = [table for role in roles if (table := _values(name, role, splits)) is not None]
            yield name, [_sizes(name, splits, texts), _lengths(name, texts), *values, _examples(name, splits["train"])]
        if len(self._rows) > 1:
            yield "Shared texts", [self._shared()]

    def _texts(self, name: str, rows: Rows) -> list[str]:
        """Return what is read of each row, without what is to be answered."""
        read = [role for role in rows.columns if role not in self._kinds[name].target_roles]
        return [" ".join(_flat([rows[role][row] for role in read])) for row in range(len(rows))]

    def _shared(self) -> Table:
        """Return how many texts of each task's test split are in the training split of each."""
        train = {name: {_normal(text) for text in self._texts(name, splits["train"])} for name, splits in self._rows.items()}
        test = {name: {_normal(text) for text in self._texts(name, splits["test"])} for name, splits in self._rows.items()}
        rows = [[name, *(str(len(test[name] & train[other])) for other in train)] for name in test]
        notes = ["Test texts (rows) that are in a training split (columns), compared without case and punctuation."]
        return Table("Shared texts", ["test of", *train], rows, notes)


def write_survey(path: Path, parts: Sequence[tuple[str, list[Table]]]) -> None:
    """Write what a survey has found: as one HTML file that works from disk, or as Markdown, by the file's ending."""
    names = [name for name, _ in parts]
    if path.suffix == ".html":
        question = f"What is in {', '.join(names)}?"
        write_sections(path, "Data", question, [], [Section(name, [], tables) for name, tables in parts])
    else:
        write_text(path, "\n".join(["# Data", "", *(table.markdown() for _, tables in parts for table in tables)]))


def _sizes(name: str, splits: Mapping[str, Rows], texts: Mapping[str, Sequence[str]]) -> Table:
    train = {_normal(text) for text in texts["train"]}
    rows = []
    for split, found in texts.items():
        words = np.array([len(text.split()) for text in found])
        normal = [_normal(text) for text in found]
        rows.append(
            [
                split,
                f"{len(found):,}",
                f"{len(found) - len(set(normal)):,}",
                "" if split == "train" else f"{sum(text in train for text in normal):,}",
                f"{near_duplicates(found, None if split == 'train' else texts['train']):,}",
                *(f"{np.quantile(words, share):.0f}" for share in (0, 0.5, 0.95, 1)),
            ]
        )
    columns = ["split", "rows", "repeated", "in train", "near", "words: least", "half", "95 %", "most"]
    notes = [
        "repeated, in train: texts that are the same without case and punctuation. near: rows that are nearly another row's "
        f"(cosine of character 4-grams over {_ALIKE}; of train: in train) among the first {_COMPARED:,} of each split.",
        f"Read from {', '.join(dict.fromkeys(rows.source for rows in splits.values()))}.",
    ]
    if empty := {split: count for split, found in texts.items() if (count := sum(not text.strip() for text in found))}:
        counts = ", ".join(f"{count:,} in {split}" for split, count in empty.items())
        notes.insert(0, f"Rows without text: {counts}. They end a run; bad_rows: drop in the task leaves them out.")
    return Table(f"{name}: sizes", columns, rows, notes)


def _lengths(name: str, texts: Mapping[str, Sequence[str]]) -> Table:
    """Return a histogram of words a text."""
    words = {split: np.array([len(text.split()) for text in found]) for split, found in texts.items()}
    everywhere = np.concatenate(list(words.values()))
    inner = np.histogram_bin_edges(words["train"], _BINS)[1:-1]
    edges = np.unique(np.floor(np.r_[everywhere.min(), inner, everywhere.max() + 1])).astype(int)
    counts = {split: np.histogram(found, edges)[0] for split, found in words.items()}
    most = counts["train"].max()
    rows = []
    for place, (first, end) in enumerate(itertools.pairwise(edges)):
        span = f"{first}" if end == first + 1 else f"{first} to {end - 1}"
        rows.append([span, *(f"{found[place]:,}" for found in counts.values()), _bar(counts["train"][place], most)])
    return Table(f"{name}: words", ["words", *counts, "train"], rows, figures=False)


def _bar(count: int, most: int) -> str:
    return "█" * max(1, round(_BAR * count / most)) if count else ""


def _values(name: str, role: str, splits: Mapping[str, Rows]) -> Table | None:
    """Return how often each value of a role is there, or where its numbers lie."""
    found = {split: list(_flat(rows[role], whole=True)) for split, rows in splits.items() if role in rows}
    numbers = [value for value in found["train"] if isinstance(value, float)]
    if numbers and len(numbers) == len(found["train"]):
        shares = (0, 0.25, 0.5, 0.75, 1)
        rows = [[split, *(f"{np.quantile(values, share):g}" for share in shares)] for split, values in found.items() if values]
        return Table(f"{name}: {role}", ["split", "least", "25 %", "half", "75 %", "most"], rows)
    counts = {split: Counter(map(str, values)) for split, values in found.items()}
    if not counts["train"] or len(counts["train"]) > max(_MOST_NAMES, len(splits["train"]) // 4):
        return None
    common = counts["train"].most_common(_MOST_NAMES)
    most = common[0][1]
    elsewhere = [label for label in sum(counts.values(), Counter()) if label not in counts["train"]]
    common += [(label, 0) for label in elsewhere[:_MOST_NAMES]]
    rows = []
    for label, count in common:
        rows.append([label, *(f"{counts[split][label]:,}" for split in counts), _bar(count, most)])
    hidden = len(counts["train"]) + len(elsewhere) - len(common)
    notes = [f"{hidden} more."] if hidden else []
    notes += [f"{len(elsewhere)} of them are in no row of train."] if elsewhere else []
    return Table(f"{name}: {role}", [role, *counts, "train"], rows, notes, figures=False)


def _examples(name: str, rows: Rows) -> Table:
    places = np.linspace(0, len(rows) - 1, min(_EXAMPLES, len(rows))).astype(int)
    shown = [[str(rows.numbers[row]), *(_short(rows[role][row]) for role in rows.columns)] for row in places]
    return Table(f"{name}: examples of train", ["row", *rows.columns], shown, figures=False)


def near_duplicates(texts: Sequence[str], others: Sequence[str] | None = None) -> int:
    """Count the texts that are nearly one of the others, or another of their own."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(4, 4), n_features=2**18, alternate_sign=False)
    vectors: Any = vectorizer.transform(texts[:_COMPARED])
    against: Any = vectors if others is None else vectorizer.transform(others[:_COMPARED])
    found = 0
    for start in range(0, vectors.shape[0], 500):
        alike: Array = (vectors[start : start + 500] @ against.T).toarray()
        if others is None:
            alike[np.arange(len(alike)), start + np.arange(len(alike))] = 0
        found += int((alike > _ALIKE).any(axis=1).sum())
    return found


def _flat(value: Any, *, whole: bool = False) -> Iterator[Any]:
    """Yield the texts in a value, however deep they are; with ``whole`` numbers too, but those of objects, which are places."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item, whole=whole)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)
    elif isinstance(value, str) or (whole and value is not None):
        yield value


def _normal(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split()) or text


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) and all(isinstance(item, str) for item in value) else str(value)
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
