"""Tasks as an experiment declares them: each by itself, or one for each domain of a column."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from mtl.task import Task

SPLIT_BY = "split_by"


def _read_task(value: Any) -> Any:
    """Read a declared task here, so that its errors are not mixed with those of a name."""
    return Task(**value) if isinstance(value, dict) else value


def _one_each(declared: Any) -> Any:
    """Make of a declaration with ``split_by`` a task for each value of a column: a head each, on rows of its own.

    ``{column}`` in its name stands for the value; without, the value comes behind the name and a slash.
    """
    if not isinstance(declared, list | tuple):
        return declared
    tasks: list[Any] = []
    for task in declared:
        if not isinstance(task, dict) or SPLIT_BY not in task:
            tasks.append(task)
            continue
        rest = {key: value for key, value in task.items() if key != SPLIT_BY}
        column, values = _column(task.get("name"), task[SPLIT_BY])
        named, where = str(task.get("name", "")), dict(task.get("where") or {})
        for value in values:
            mark = f"{{{column}}}"
            name = named.replace(mark, value) if mark in named else f"{named}/{value}"
            tasks.append({**rest, "name": name, "where": {**where, column: [value]}})
    return tasks


def _column(name: Any, given: Any) -> tuple[str, list[str]]:
    if isinstance(given, dict) and len(given) == 1:
        column, values = next(iter(given.items()))
        if isinstance(values, list | tuple) and values and len(set(map(str, values))) == len(values):
            return str(column), [str(value) for value in values]
    raise ValueError(
        f"{SPLIT_BY} of {name!r} must be one column with a list of its values, a task for each: "
        f"{SPLIT_BY}: {{domain: [books, films]}}; found {given!r}"
    )


#: What ``tasks`` of an experiment are read as.
Tasks = Annotated[tuple[Annotated[Task | str, BeforeValidator(_read_task)], ...], BeforeValidator(_one_each)]
