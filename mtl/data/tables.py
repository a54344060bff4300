"""Reading files, the Hub's data sets and rows given in place. The one importer of the `datasets` library."""

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

from mtl.data.delimited import types_of
from mtl.data.lazy import DiskColumn
from mtl.errors import DataError
from mtl.files import why_no_file
from mtl.task import SPLITS, FileData, HubData, ListData, Split

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_TYPES = {int: "a number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "an object"}


class Table:
    """A data set as `datasets` reads it; it may stay on disk.

    Args:
        dataset: The data set.
        source: Its name, for messages.
        fingerprint: Hash of what was read.
        numbers: The rows' numbers in the source. Default: from 1 on.
        stream: Whether columns stay on disk.
        files: Each file with its number of rows, where several were put together.
    """

    def __init__(
        self,
        dataset: Any,
        source: str,
        fingerprint: str,
        numbers: Sequence[int] | None = None,
        *,
        stream: bool = False,
        files: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.dataset, self.source, self.fingerprint, self.stream, self.files = dataset, source, fingerprint, stream, files
        self.numbers = numbers if numbers is not None else range(1, len(dataset) + 1)

    def select(self, indices: Any, why: str) -> Table:
        """Return the rows at ``indices``; ``why`` goes into the fingerprint."""
        return Table(
            self.dataset.select(indices),
            self.source,
            digest_of(self.fingerprint, why),
            self._numbers(indices),
            stream=self.stream,
            files=self.files,
        )

    def _numbers(self, indices: Sequence[int]) -> Any:
        if self.stream:  # eight bytes a row
            return np.asarray(self.numbers)[np.asarray(indices)]
        return [self.numbers[index] for index in indices]

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column."""
        values: Sequence[Any] = DiskColumn(self.dataset.select_columns([name]), name) if self.stream else self.dataset[name][:]
        return values


@singledispatch
def read_tables(data: Any, base: Path) -> dict[Split, Table]:
    """Read the splits that are there.

    Args:
        data: Where they are.
        base: The folder that relative paths start from.

    Raises:
        DataError: If a file or a data set is missing or cannot be read.
    """
    raise TypeError(f"no reader for {type(data).__name__}")


@read_tables.register
def _(data: ListData, base: Path) -> dict[Split, Table]:
    from datasets import Dataset

    lists: dict[Split, list[dict[str, Any]]] = data.rows if isinstance(data.rows, dict) else {"train": data.rows}
    tables: dict[Split, Table] = {}
    for split, rows in lists.items():
        source = f"rows of {split}"
        with _explained(source, lambda rows=rows: mixed_types(enumerate(rows, 1), "row")):  # type: ignore[misc]
            dataset = Dataset.from_list(rows)
        tables[split] = Table(dataset, source, digest_of(json.dumps(rows, default=str)))
    return tables


@read_tables.register
def _(data: FileData, base: Path) -> dict[Split, Table]:
    if isinstance(data.files, dict):
        return {split: _read_files(_list_of(paths), base, data.stream) for split, paths in data.files.items()}
    patterns = _list_of(data.files)
    if not any("{split}" in path for path in patterns):
        return {"train": _read_files(patterns, base, data.stream)}
    tables: dict[Split, Table] = {}
    for split in SPLITS:
        paths = [path.replace("{split}", split) for path in patterns]
        there = [path for path in paths if _find(path, base)]
        if split == "train" or there:  # what is there for one file only is an error that names the other
            tables[split] = _read_files(paths, base, data.stream)
    return tables


def _list_of(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


def _read_files(paths: list[str], base: Path, stream: bool) -> Table:
    """Read files as one table, with the columns that all of them have."""
    from datasets import concatenate_datasets

    tables = [read_file(resolve(path, base), stream) for path in paths]
    if len(tables) == 1:
        return tables[0]
    filled = [table for table in tables if len(table.dataset)] or tables[:1]
    names = [name for name in filled[0].dataset.column_names if all(name in table.dataset.column_names for table in filled)]
    source = " and ".join(table.source for table in tables)
    with _explained(source, lambda: _unlike(filled, names)):
        dataset = concatenate_datasets([table.dataset.select_columns(names) for table in filled])
    files = [(table.source, len(table.dataset)) for table in tables]
    return Table(dataset, source, digest_of(*(table.fingerprint for table in tables)), stream=stream, files=files)


def _unlike(tables: Sequence[Table], names: Iterable[str]) -> str:
    """Find the first column that is of another type in another file, or say nothing."""
    for name in names:
        first, *others = (table.dataset.features[name] for table in tables)
        for table, other in zip(tables[1:], others, strict=True):
            if other != first:
                return f"column {name!r} is {first} in {tables[0].source} and {other} in {table.source}; it must have one type."
    return ""


@read_tables.register
def _(data: HubData, base: Path) -> dict[Split, Table]:
    from datasets import get_dataset_split_names, load_dataset

    with _explained(f"data set {data.hub!r}"):
        there = get_dataset_split_names(data.hub, data.config, revision=data.revision)
    tables: dict[Split, Table] = {}
    for split, name in data.splits.items():
        if name.split("[")[0] in there:
            with _explained(f"data set {data.hub!r}"):
                dataset = load_dataset(data.hub, data.config, split=name, revision=data.revision)
            source, fingerprint = f"{data.hub} ({name})", str(dataset._fingerprint)
            tables[split] = Table(_named_labels(dataset), source, fingerprint, stream=data.stream)
    return tables


def _named_labels(dataset: Any) -> Any:
    """Let the class numbers of a Hub data set be read as the names it declares; it stays where it is."""
    from datasets import ClassLabel

    labels = {name: getattr(feature, "feature", feature) for name, feature in dataset.features.items()}
    labels = {name: label for name, label in labels.items() if isinstance(label, ClassLabel)}

    def spelled(label: Any, value: Any) -> Any:
        if isinstance(value, list):
            return label.int2str(value)
        return None if value is None or value < 0 else label.int2str(value)  # the Hub marks rows without a label by −1

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return batch | {name: [spelled(label, value) for value in batch[name]] for name, label in labels.items() if name in batch}

    return dataset.with_transform(read) if labels else dataset


def _find(path: str, base: Path) -> Path | None:
    for candidate in (path, f"{path}.gz"):
        if (full := (base / candidate).expanduser()).is_file():
            return full
    return None


def resolve(path: str, base: Path) -> Path:
    """Return the file, or the one with ``.gz`` behind its name.

    Raises:
        DataError: If neither is there.
    """
    if found := _find(path, base):
        return found
    raise DataError(why_no_file((base / path).expanduser()))


def read_file(path: Path, stream: bool = False) -> Table:
    """Read a file.

    Raises:
        DataError: If its format is not known, or it cannot be read; names the first bad line.
    """
    from datasets import Dataset, Features, Value, load_dataset

    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    form = _FORMATS.get(suffixes[-1] if suffixes else "")
    if form is None:
        raise DataError(f"{path}: cannot tell the format. Known endings: {', '.join(_FORMATS)}, each also with .gz.")
    if path.stat().st_size == 0:
        return Table(Dataset.from_dict({}), str(path), "empty")
    options: dict[str, Any] = {}
    if form == "csv":  # an empty cell is missing; "NA" and "None" are texts
        options = {"sep": "\t" if suffixes[-1] == ".tsv" else ",", "keep_default_na": False, "na_values": [""]}
    with _explained(str(path), lambda: _first_bad_line(path, form)):
        _check_encoding(path, form)
        try:
            if options:
                options["features"] = Features({name: Value(kind) for name, kind in types_of(path, dict(options)).items()})
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
    return Table(dataset, str(path), digest.hexdigest(), stream=stream)


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
        where = f"the quote that opens in line {int(opened[1]) + 1} or after it is not closed."
        return f"{where} Close it; a quote that is part of a text is doubled, in a text within quotes."
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
    return mixed_types(rows, "line")


def mixed_types(rows: Iterable[tuple[int, Mapping[str, Any]]], unit: str) -> str:
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


def digest_of(*parts: str) -> str:
    """Return the hash of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Read a file as it is, column by column.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    dataset = read_file(resolve(str(path), Path.cwd())).dataset
    return {name: dataset[name][:] for name in dataset.column_names}
