"""Writing a plugin package: a folder that can be installed, and that passes its own tests at once."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from mtl.errors import ConfigError
from mtl.files import write_text
from mtl.plugins import Plugins
from mtl.scaffold import templates
from mtl.scaffold.look import look_at, propose

_NAME = re.compile(r"[a-z][a-z0-9]*([-_/.][a-z0-9]+)*")

#: What can be made to be changed: the end of its hook's name, and its module.
_PARTS = {
    "kind": ("kinds", templates.KIND_MODULE),
    "strategy": ("strategies", templates.STRATEGY_MODULE),
    "sampler": ("samplers", templates.SAMPLER_MODULE),
    "weighting": ("weightings", templates.WEIGHTING_MODULE),
    "aggregation": ("aggregations", templates.AGGREGATION_MODULE),
    "adaptation": ("adaptations", templates.ADAPTATION_MODULE),
}


@dataclass(frozen=True)
class Written:
    """What was written, and what a person should know.

    Attributes:
        folder: The package.
        lines: What was found and decided, a sentence a line.
    """

    folder: Path
    lines: list[str]


def new_task(name: str, kind: str, data: Path, folder: Path, plugins: Plugins) -> Written:
    """Write a package with a task of a file's rows.

    Args:
        name: Of the task.
        kind: Its kind.
        data: The file; a copy goes into the package.
        folder: Where the package's folder is made.
        plugins: That bring the kind.

    Raises:
        DataError: If the file cannot serve the kind; names what is missing.
        ConfigError: If the name is not a name, or the folder is there already.
    """
    cls = plugins.kinds.get(kind)
    look = look_at(data)
    mapping = propose(look, cls)
    columns = {role: column for role, column in mapping.items() if role != column}
    names = _names(name)
    made = _write(
        folder,
        name,
        f"The task {name}, of kind {kind}",
        {f"{names['module']}/__init__.py": templates.TASK, "tests/test_contract.py": templates.TEST},
        {"kind": kind, "file": data.name, "columns": json.dumps(columns)},
    )
    place = made / names["module"] / "data" / data.name
    place.parent.mkdir(parents=True)
    shutil.copy(data, place)
    decided = ", ".join(f"{role} is {column!r}" for role, column in mapping.items())
    return Written(made, [*look.lines(mapping), f"Roles: {decided}. Change 'columns' in {names['module']}/__init__.py if not."])


def new_part(what: str, name: str, folder: Path) -> Written:
    """Write a package with a kind, a strategy, another part or a tracker to be changed.

    Raises:
        ConfigError: If there is no template for it, the name is not a name, or the folder is there already.
    """
    module = _names(name)["module"]
    if what == "tracker":
        texts = {"__init__": templates.TRACKER}
    elif what in _PARTS:
        texts = {"__init__": templates.PART, what: _PARTS[what][1]}
    else:
        raise ConfigError(f"There is no template for {what!r}. There are: {', '.join(sorted([*_PARTS, 'task', 'tracker']))}.")
    files = {f"{module}/{file}.py": text for file, text in texts.items()}
    files["tests/test_contract.py"] = templates.TRACKER_TEST if what == "tracker" else templates.TEST
    plural = _PARTS[what][0] if what in _PARTS else ""
    made = _write(folder, name, f"The {what} {name}", files, {"what": what, "plural": plural})
    return Written(made, [f"Change {module}/{'__init__' if what == 'tracker' else what}.py, and look whether it still holds."])


def _names(name: str) -> dict[str, str]:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"Name {name!r}: write small letters and digits with '-' or '/' between them, for example 'acme/queue'."
        )
    words = re.split(r"[-_/.]", name)
    return {"package": f"mtl-{'-'.join(words)}", "module": f"mtl_{'_'.join(words)}", "cls": "".join(map(str.capitalize, words))}


def _write(folder: Path, name: str, summary: str, files: dict[str, str], values: dict[str, str]) -> Path:
    names = _names(name)
    made = folder / names["package"]
    if made.exists():
        raise ConfigError(f"{made} is there already. Remove it, or choose another name.")
    filled = {**names, **values, "name": name, "summary": summary}
    common = {"pyproject.toml": templates.PYPROJECT, "README.md": templates.README}
    for path, text in {**common, **files}.items():
        write_text(made / path, text.format(**filled))
    return made
