"""Reading a task's splits. The one importer of the `datasets` library."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from mtl.data.lazy import DiskColumn
from mtl.data.rows import Rows
from mtl.errors import DataError, did_you_mean
from mtl.files import why_no_file
from mtl.task import SPLITS, FileData, HubData, ListData, Split, Task

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_TYPES = {int: "a number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "an object"}
#: A split that the data do not have is cut from train: a tenth of its distinct rows, in the order of their hashes.
_CUT_SHARE = 10


class _Table:
    """A data set as `datasets` reads it, with its source's name and fingerprint; it may stay on disk."""

    def __init__(
        self, dataset: Any, source: str, fingerprint: str, numbers: Sequence[int] | None = None, *, stream: bool = False
    ) -> None:
        self.dataset, self.source, self.fingerprint, self.stream = dataset, source, fingerprint, stream
        self.numbers = numbers if numbers is not None else range(1, len(dataset) + 1)

    def select(self, indices: Any, why: str) -> _Table:
        return _Table(
            self.dataset.select(indices),
            self.source,
            _digest(self.fingerprint, why),
            self._numbers(indices),
            stream=self.stream,
        )

    def _numbers(self, indices: Sequence[int]) -> Any:
        if self.stream:  # eight bytes a row
            return np.asarray(self.numbers)[np.asarray(indices)]
        return [self.numbers[index] for index in indices]

    def column(self, name: str) -> Sequence[Any]:
        values: Sequence[Any] = DiskColumn(self.dataset.select_columns([name]), name) if self.stream else self.dataset[name][:]
        return values


def load_splits(task: Task, roles: dict[str, bool], base: Path) -> dict[Split, Rows]:
    """Read a task's three splits, columns renamed to roles.

    Args:
        task: The declaration.
        roles: The kind's column roles and whether each must be there.
        base: The folder that relative paths start from.

    Raises:
        DataError: If data are missing, cannot be read, lack a column, or a split is empty.
    """
    tables = _read(task.data, base)
    if "train" not in tables:
        raise DataError(f"Task {task.name!r} has no train split. Found: {', '.join(tables) or 'none'}.")
    tables = {split: _keep_where(table, task, split) for split, table in tables.items()}
    for split, table in tables.items():
        if not len(table.dataset):
            raise DataError(f"Task {task.name!r}: the {split} split ({table.source}) has no rows{_because_of(task)}.")
        _check_columns(table, task, roles)
    tables = _cut_missing(tables)
    rows = {}
    for split in SPLITS:
        table, limit = tables[split], task.row_limit(split)
        if limit is not None and limit < len(table.dataset):
            table = table.select(range(limit), f"first {limit}")
        if not len(table.dataset):
            raise DataError(
                f"Task {task.name!r}: {table.source} has too few different rows: none is left for {split} when the splits that "
                "are missing are cut from it. Give more rows, or a file for each split."
            )
        rows[split] = _as_rows(table, task, roles)
    return rows


def load_file(task: Task, path: str, roles: dict[str, bool], base: Path) -> Rows:
    """Read one more file of a task, such as a support set that came with the data.

    Args:
        task: Says how the rows are to be read.
        path: The file.
        roles: The kind's column roles and whether each must be there.
        base: The folder that a relative path starts from.

    Raises:
        DataError: If it is missing, cannot be read, lacks a column, or is empty.
    """
    table = _read_file(_resolve(path, base))
    if not len(table.dataset):
        raise DataError(f"Task {task.name!r}: {table.source} has no rows; a support needs some.")
    _check_columns(table, task, roles)
    return _as_rows(table, task, roles)


@singledispatch
def _read(data: Any, base: Path) -> dict[Split, _Table]:
    raise TypeError(f"no reader for {type(data).__name__}")


@_read.register
def _(data: ListData, base: Path) -> dict[Split, _Table]:
    from datasets import Dataset

    lists: dict[Split, list[dict[str, Any]]] = data.rows if isinstance(data.rows, dict) else {"train": data.rows}
    tables: dict[Split, _Table] = {}
    for split, rows in lists.items():
        source = f"rows of {split}"
        with _explained(source, lambda rows=rows: _mixed(enumerate(rows, 1), "row")):  # type: ignore[misc]
            dataset = Dataset.from_list(rows)
        tables[split] = _Table(dataset, source, _digest(json.dumps(rows, default=str)))
    return tables


@_read.register
def _(data: FileData, base: Path) -> dict[Split, _Table]:
    if isinstance(data.files, dict):
        return {split: _read_file(_resolve(path, base), data.stream) for split, path in data.files.items()}
    if "{split}" not in data.files:
        return {"train": _read_file(_resolve(data.files, base), data.stream)}
    paths = {split: _find(data.files.replace("{split}", split), base) for split in SPLITS}
    if paths["train"] is None:
        _resolve(data.files.replace("{split}", "train"), base)
    return {split: _read_file(path, data.stream) for split, path in paths.items() if path is not None}


@_read.register
def _(data: HubData, base: Path) -> dict[Split, _Table]:
    from datasets import get_dataset_split_names, load_dataset

    with _explained(f"data set {data.hub!r}"):
        there = get_dataset_split_names(data.hub, data.config, revision=data.revision)
    tables: dict[Split, _Table] = {}
    for split, name in data.splits.items():
        if name.split("[")[0] in there:
            with _explained(f"data set {data.hub!r}"):
                dataset = load_dataset(data.hub, data.config, split=name, revision=data.revision)
            tables[split] = _Table(_named_labels(dataset), f"{data.hub} ({name})", str(dataset._fingerprint))
    return tables


def _named_labels(dataset: Any) -> Any:
    """Replace the class numbers of a Hub data set by the names it declares."""
    from datasets import ClassLabel, Value
    from datasets import Sequence as SequenceOf

    for name, feature in dict(dataset.features).items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, ClassLabel):
            texts = [None if value is None or value < 0 else feature.int2str(value) for value in dataset[name]]
            dataset = dataset.remove_columns(name).add_column(name, texts, feature=Value("string"))
        elif isinstance(inner, ClassLabel):
            lists = [inner.int2str(values) for values in dataset[name]]
            dataset = dataset.remove_columns(name).add_column(name, lists, feature=SequenceOf(Value("string")))
    return dataset


def _find(path: str, base: Path) -> Path | None:
    for candidate in (path, f"{path}.gz"):
        if (full := (base / candidate).expanduser()).is_file():
            return full
    return None


def _resolve(path: str, base: Path) -> Path:
    if found := _find(path, base):
        return found
    raise DataError(why_no_file((base / path).expanduser()))


def _read_file(path: Path, stream: bool = False) -> _Table:
    from datasets import Dataset, load_dataset

    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    form = _FORMATS.get(suffixes[-1] if suffixes else "")
    if form is None:
        raise DataError(f"{path}: cannot tell the format. Known endings: {', '.join(_FORMATS)}, each also with .gz.")
    if path.stat().st_size == 0:
        return _Table(Dataset.from_dict({}), str(path), "empty")
    options: dict[str, Any] = {}
    if form == "csv":  # an empty cell is missing; "NA" and "None" are texts
        options = {"sep": "\t" if suffixes[-1] == ".tsv" else ",", "keep_default_na": False, "na_values": [""]}
    with _explained(str(path), lambda: _first_bad_line(path, form)):
        _check_encoding(path, form)
        try:
            with _uncounted():
                dataset = load_dataset(form, data_files=str(path), split="train", **options)
        except ValueError as error:
            if "no data" not in str(error):
                raise
            dataset = Dataset.from_dict({})  # a header alone, or blank lines
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(2**18):
            digest.update(block)
    return _Table(dataset, str(path), digest.hexdigest(), stream=stream)


@contextmanager
def _uncounted() -> Iterator[None]:
    """Read without telling the Hub: `datasets` counts there how often its own reader of a local file is used."""
    from datasets import config

    counting, config.HF_UPDATE_DOWNLOAD_COUNTS = config.HF_UPDATE_DOWNLOAD_COUNTS, False
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counting


@contextmanager
def _explained(source: str, diagnose: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn whatever a reader raises into one message, with the first bad line where one can be found."""
    from datasets.utils.logging import CRITICAL, disable_progress_bar, set_verbosity

    disable_progress_bar()
    set_verbosity(CRITICAL)  # what it logs as an error is raised too
    try:
        yield
    except Exception as error:  # readers raise their own, pyarrow's, pandas' and the Hub's errors
        try:
            detail = diagnose() if diagnose else ""
        except OSError:  # not gzip after all
            detail = ""
        raise DataError(f"{source} cannot be read: {detail or _root_cause(error)}") from error


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error).strip().partition("\n")[0].removeprefix("Error tokenizing data. C error: ").rstrip(".")
    if opened := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"the quote that opens in line {int(opened[1]) + 1} or after it is not closed."
    return f"{message or type(error).__name__}."


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered lines of a text file, gzip-compressed or not."""
    import gzip

    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        yield from enumerate(stream, 1)


def _check_encoding(path: Path, form: str) -> None:
    """Raise a UnicodeDecodeError here: some readers let wrong bytes pass."""
    if form != "parquet":
        for _, line in _lines(path):
            line.decode("utf-8")


def _first_bad_line(path: Path, form: str) -> str:
    """Find the line of a text file that is not UTF-8 or not JSON, or say nothing."""
    if form == "parquet":
        return ""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in _lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            return f"line {number} is not UTF-8 ({error.reason} at byte {error.start + 1}). Convert the file to UTF-8."
        if form != "json" or ".jsonl" not in path.suffixes or not text:
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            return f"line {number} is not JSON: {error.msg} (column {error.colno})."
        if not isinstance(row, dict):
            return f"line {number} is not a JSON object but {text:.40}."
        rows.append((number, row))
    return _mixed(rows, "line")


def _mixed(rows: Iterable[tuple[int, Mapping[str, Any]]], unit: str) -> str:
    """Find the first column that holds values of two types, or say nothing."""
    types: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        for column, value in row.items():
            kind = _TYPES.get(type(value), type(value).__name__)
            first, expected = types.setdefault(column, (number, kind)) if value is not None else (number, kind)
            if kind != expected:
                return (
                    f"column {column!r} holds {expected} in {unit} {first} and {kind} in {unit} {number}; it must have one type."
                )
    return ""


def _keep_where(table: _Table, task: Task, split: str) -> _Table:
    for column, wanted in task.where.items():
        _must_have(table, column, f"Task {task.name!r}, 'where'", "Mend the column's name there.")
        values: set[str] = set()
        kept = []
        for index, value in enumerate(map(str, table.column(column))):
            values.add(value)
            if value in wanted:
                kept.append(index)
        absent = sorted(set(wanted) - values)
        if absent and split == "train":
            near = did_you_mean(absent[0], values)
            raise DataError(f"Task {task.name!r}: no row of {table.source} has {column!r} = {absent[0]!r}. {near}".strip())
        table = table.select(kept, f"{column} in {sorted(wanted)}")
    return table


def _cut_missing(tables: dict[Split, _Table]) -> dict[Split, _Table]:
    """Cut the splits that are not there from train, so that equal rows always fall on the same side."""
    missing = [split for split in SPLITS if split not in tables]
    train = tables["train"]
    if not missing:
        return tables
    # The first 16 of 64 digits, as numbers: of the same order, and eight bytes a row.
    digests = np.fromiter(map(_row_digest, train.dataset), np.uint64, len(train.dataset))
    distinct = np.unique(digests)
    side = np.searchsorted(distinct, digests) // max(1, len(distinct) // _CUT_SHARE)
    parts = {split: np.flatnonzero(side == number) for number, split in enumerate(missing)}
    parts["train"] = np.flatnonzero(side >= len(missing))
    cut = {split: train.select(indices, f"cut for {split}") for split, indices in parts.items()}
    return {**tables, **cut}


def _as_rows(table: _Table, task: Task, roles: dict[str, bool]) -> Rows:
    names = {role: task.columns.get(role, role) for role in roles}
    columns = {role: table.column(name) for role, name in names.items() if name in table.dataset.column_names}
    return Rows(columns, table.source, table.numbers, table.fingerprint)


def _check_columns(table: _Table, task: Task, roles: dict[str, bool]) -> None:
    for role, required in roles.items():
        column = task.columns.get(role, role)
        if required or role in task.columns:
            _must_have(table, column, f"Task {task.name!r}, role {role!r}", "Say which column it is under 'columns'.")
        if type(table.dataset.features.get(column)).__name__ == "Json":  # so `datasets` reads what is not of one type
            values = zip(table.numbers, table.dataset[column], strict=True)
            if fault := _mixed(((number, {column: value}) for number, value in values), "row"):
                raise DataError(f"{table.source}: {fault}")


def _must_have(table: _Table, column: str, who: str, advice: str) -> None:
    names = table.dataset.column_names
    if column not in names and len(table.dataset):
        near = did_you_mean(column, names)
        found = f"It has: {', '.join(names)}."
        raise DataError(" ".join(filter(None, [f"{who}: {table.source} has no column {column!r}.", near, found, advice])))


def _because_of(task: Task) -> str:
    kept = " and ".join(f"{column!r} is {' or '.join(map(repr, wanted))}" for column, wanted in task.where.items())
    return f" left, as 'where' keeps those whose {kept}" if task.where else ""


def _row_digest(row: Mapping[str, Any]) -> int:
    return int(_digest(json.dumps(row, sort_keys=True, default=str))[:16], 16)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Read a file as it is, column by column.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    dataset = _read_file(_resolve(str(path), Path.cwd())).dataset
    return {name: dataset[name][:] for name in dataset.column_names}
