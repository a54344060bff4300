"""What a task declares. Pure data: the same object is written in Python or in an experiment's YAML."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from mtl.errors import explain_validation

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_Count = Annotated[int, Field(ge=1)]
_Paths = Annotated[list[str], Field(min_length=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)*")


class Frozen(BaseModel):
    """Base of all declarations: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HubData(Frozen):
    """A data set on the Hugging Face Hub: ``data: {hub: stanfordnlp/sst2}``.

    Args:
        hub: The data set's id.
        config: Its configuration, where it has several.
        revision: A branch, a tag or a commit.
        splits: Maps this project's split names to the data set's own.
        stream: Whether rows and tokens stay on disk, where `datasets` has written the table, for data that are larger than
            memory; the result is the same.
    """

    hub: str = Field(min_length=1)
    config: str | None = None
    revision: str | None = None
    stream: bool = False
    splits: dict[Split, str] = {split: split for split in SPLITS}


class FileData(Frozen):
    """Local csv, tsv, json, jsonl or parquet files, gzip-compressed or not.

    Args:
        files: One path with ``{split}`` in it, one path to be divided, or a path for each split; several paths where a task has
            several files, of which the columns that all have are read. Of ``rows.jsonl`` and ``rows.jsonl.gz`` the one that
            exists is taken.
        stream: Whether rows and tokens stay on disk, for data that are larger than memory; the result is the same.
    """

    files: str | _Paths | dict[Split, str | _Paths]
    stream: bool = False


class ListData(Frozen):
    """Rows given in place.

    Args:
        rows: A list of dicts to be divided, or one list for each split.
    """

    rows: list[dict[str, Any]] | dict[Split, list[dict[str, Any]]]


def _read_data(value: Any) -> Any:
    """Let a path, a list of rows, or a mapping from split to either stand for its declaration."""
    if isinstance(value, str | os.PathLike):
        return FileData(files=os.fspath(value))
    if isinstance(value, list):
        return FileData(files=value) if _are_paths(value) else ListData(rows=value)
    if isinstance(value, dict) and value.keys() <= set(SPLITS) and value:
        lists = all(isinstance(part, list) and not _are_paths(part) for part in value.values())
        return ListData(rows=value) if lists else FileData(files=value)
    for form, key in ((HubData, "hub"), (FileData, "files"), (ListData, "rows")):
        if isinstance(value, dict) and key in value:
            return form.model_validate(value)
    if not isinstance(value, BaseModel):
        found = f"a mapping with the keys {', '.join(map(str, value))}" if isinstance(value, dict) and value else repr(value)
        raise ValueError(
            "must be a path, a list of rows, a mapping from train, validation and test to either, or {hub: owner/name}; "
            f"found {found}"
        )
    return value


def _are_paths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(path, str) for path in value)


class Task(Frozen):
    """One task: its name, its kind, where its rows are and how they are to be read.

    Args:
        name: How people call it; ``owner/task`` or ``owner.task`` for tasks that a package brings.
        kind: The name of a registered kind, for example ``classification``.
        data: A path, rows, a mapping from split to either, or a data set on the Hub. Splits that are
            missing are cut from ``train``, ten per cent each, by a hash of the row.
        columns: Maps the kind's column roles (``text``, ``label``, …) to the names in the data. A role
            that is not mentioned is looked for under its own name.
        labels: Label names in their order. Default: those found in ``train``, sorted.
        metric: The primary metric. Default: the kind's first.
        where: Keeps only the rows whose column has one of the listed values.
        max_rows: Keeps at most that many rows of a split, the first ones.
        bad_rows: What to do with a row that cannot serve: ``error`` names it and stops, ``drop`` leaves it out, counts it
            and goes on.
        max_words: A text with more words than this is refused as a likely accident of the file.
        weight: The task's weight in the joint loss, before any weighting method.
        options: Options of the kind.
        descriptions: What a label is called in words, where methods read label names. Default: the label itself, with
            spaces for ``_``.
        description: A sentence for people.

    Raises:
        ConfigError: If a value is missing or not valid, or a key is unknown.
    """

    name: str
    kind: str
    data: Annotated[FileData | HubData | ListData, BeforeValidator(_read_data)]
    columns: dict[str, str] = {}
    labels: tuple[str, ...] | None = None
    metric: str | None = None
    where: dict[str, tuple[str, ...]] = {}
    max_rows: _Count | dict[Split, _Count] | None = None
    bad_rows: Literal["error", "drop"] = "error"
    max_words: int = Field(default=10_000, gt=0)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    options: dict[str, Any] = {}
    descriptions: dict[str, str] = {}
    description: str = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            where = f"Task {values['name']!r}" if "name" in values else "A task"
            inner = {f"data.{key}" for form in (HubData, FileData, ListData) for key in form.model_fields}
            raise explain_validation(error, where, {**type(self).model_fields, **dict.fromkeys(inner)}) from error

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("must be letters, digits, '_', '-', '.' and '/' only, for example 'helpdesk/intent'")
        return name

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and len(set(labels)) != len(labels):
            twice = sorted({label for label in labels if labels.count(label) > 1})
            raise ValueError(f"listed twice: {', '.join(twice)}")
        if labels is not None and not labels:
            raise ValueError("is empty; leave it out to take the labels of train")
        return labels

    def row_limit(self, split: Split) -> int | None:
        """Return how many rows of ``split`` are kept at most, ``None`` for all."""
        return self.max_rows.get(split) if isinstance(self.max_rows, dict) else self.max_rows
