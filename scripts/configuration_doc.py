"""Write docs/configuration.md from the typed configuration: types and bounds, defaults, and the docstrings' Args.

Run it as ``python scripts/configuration_doc.py`` after a key has changed; a test compares the page with it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"
_BUNDLED = "bundled with mtl"
_INTRODUCTION = """\
# The experiment file

<!-- Written by scripts/configuration_doc.py. Change the docstrings, not this page. -->

An experiment is one YAML file; `mtl run FILE` runs it. Only `encoder` and `tasks` must be there. An unknown key is an
error that names the nearest known one. `${NAME}` and `${NAME:-default}` are taken from the environment. From the command
line, `--set KEY=VALUE` overrides a key, with dots for inner keys: `--set budget.epochs=1`. In Python,
`mtl.Experiment.of(...)` takes the same keys.

Where a table says *name with options*, write the name (`sampler: uniform`) or a mapping with the name and options
(`sampler: {name: temperature, temperature: 2}`). The options of what comes with `mtl` are at the end of this page;
`mtl plugins` lists the names that are installed.
"""


#: Headings of the models that are not the value of one key.
_TITLES = {
    "ExperimentConfig": "The keys",
    "Task": "A task",
    "FileData": "Data in files",
    "ListData": "Data in place",
    "HubData": "Data on the Hub",
}


class MissingMeaningError(Exception):
    """A key has no line in the Args of its class."""


def arguments(cls: type) -> dict[str, str]:
    """Return the meaning of each argument from the Google-style Args of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE | re.DOTALL)
        for name, meaning in re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", section[1] if section else "", re.M | re.S):
            found.setdefault(name, plain(meaning))
    return found


def summary(cls: type) -> str:
    """Return a class's first paragraph."""
    return plain(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0])


def plain(text: str) -> str:
    """Make one line of Markdown of a docstring's text."""
    text = re.sub(r":\w+:`(?:mtl\.)?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|")


def title_of(model: str) -> str:
    """Return the heading of a model: the key whose value it is, or a title of its own."""
    from mtl.config import ExperimentConfig

    keys = {key: json.dumps(about) for key, about in ExperimentConfig.model_json_schema()["properties"].items()}
    found = [f"`{key}`" for key, about in keys.items() if f'/{model}"' in about]
    return _TITLES.get(model) or found[0]


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


def type_of(schema: Mapping[str, Any]) -> str:
    """Say a JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        if name == "Choice":
            return "name with options"
        title = title_of(name)
        return f"[{title if name in _TITLES else 'mapping'}](#{anchor(title)})".replace("[A task]", "[task]")
    if "anyOf" in schema:
        parts = [type_of(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts)) + (" or nothing" if len(parts) < len(schema["anyOf"]) else "")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {type_of(schema['prefixItems'][0])}"
        return f"list of {type_of(schema.get('items', {}))}"
    if kind == "object":
        keys = f" ({type_of(names)})" if "enum" in (names := schema.get("propertyNames", {})) else ""
        values = schema.get("additionalProperties", {})
        return f"mapping{keys} to {type_of(values if isinstance(values, dict) else {})}"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(str(kind), "any value") + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    # 2⁶³ and the like are limits of the machine, not of the key.
    found = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema and abs(schema[key]) < 1e9]
    return f" {', '.join(found)}" if found else ""


def default_of(value: Any) -> str:
    """Write a default as it would stand in the file."""
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        if given:
            return default_of(given["name"] if set(given) == {"name"} else given)
        return "as below"
    if isinstance(value, float):
        return f"`{'.inf' if value > 0 else '-.inf'}`" if math.isinf(value) else f"`{value:g}`"
    if isinstance(value, Path):
        return f"`{value}`"
    if value is None or value == () or value == {} or value == "":
        return "–"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}`"
    if isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        return ", ".join(default_of(item) for item in value)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def table(cls: type, schema: Mapping[str, Any], defaults: Mapping[str, Any], what: str = "key") -> Iterator[str]:
    """Yield the lines of a table of a class's keys.

    Raises:
        MissingMeaningError: If a key is not explained in the class's docstring.
    """
    meanings = arguments(cls)
    yield f"| {what} | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, about in schema.get("properties", {}).items():
        if key not in meanings:
            raise MissingMeaningError(f"{cls.__module__}.{cls.__qualname__}: the docstring's Args do not explain {key!r}.")
        default = default_of(defaults[key]) if key in defaults else "**must be given**"
        yield f"| `{key}` | {type_of(about)} | {default} | {meanings[key]} |"


def models() -> list[type[BaseModel]]:
    """Return the models of the experiment file in the order of the page."""
    from mtl.config import (
        BatchConfig,
        Budget,
        CheckpointConfig,
        CompareConfig,
        EncoderConfig,
        EpisodesConfig,
        EvaluationConfig,
        ExperimentConfig,
        OptimizerConfig,
        TargetsConfig,
    )
    from mtl.task import FileData, HubData, ListData, Task

    own = [EncoderConfig, Task, FileData, ListData, HubData, TargetsConfig, BatchConfig, EpisodesConfig, Budget]
    return [ExperimentConfig, *own, OptimizerConfig, EvaluationConfig, CheckpointConfig, CompareConfig]


def _model_sections() -> Iterator[str]:
    for model in models():
        yield f"## {title_of(model.__name__)}"
        yield summary(model)
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in model.model_fields.items()
            if not field.is_required()
        }
        yield "\n".join(table(model, model.model_json_schema(), defaults))


def _plugin_sections() -> Iterator[str]:
    from mtl.plugins import load_plugins

    plugins = load_plugins()
    yield "## Options of what comes with mtl"
    registries = {
        "Strategies (`strategy`)": plugins.strategies,
        "Weightings (`strategy: {name: joint, weighting: …}`)": plugins.weightings,
        "Aggregations (`strategy: {name: balanced, aggregation: …}`)": plugins.aggregations,
        "Samplers (`sampler`)": plugins.samplers,
        "Adaptations (`targets.adaptation`)": plugins.adaptations,
        "Adapters (`encoder.adapter`)": plugins.adapters,
        "Protocols (`targets.protocol`)": plugins.protocols,
        "Backends (`mtl compare --backend`)": plugins.backends,
        "Kinds of task (a task's `options`)": plugins.kinds,
    }
    for title, registry in registries.items():
        yield f"### {title}"
        for name in registry:
            if _BUNDLED in registry.origin(name):
                yield from _options(name, registry.get(name))


def _options(name: str, cls: Any) -> Iterator[str]:
    """Yield what a registered class is for and a table of its options."""
    yield f"**`{name}`** – {summary(cls)}"
    if hasattr(cls, "Options"):
        cls = cls.Options
        defaults = {key: field.get_default(call_default_factory=True) for key, field in cls.model_fields.items()}
        schema = cls.model_json_schema()
    elif dataclasses.is_dataclass(cls):
        schema = TypeAdapter(cls).json_schema()
        defaults = {
            field.name: field.default if field.default is not dataclasses.MISSING else field.default_factory()
            for field in dataclasses.fields(cls)
            if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        }
    else:
        return
    if schema.get("properties"):
        yield "\n".join(table(cls, schema, defaults, "option"))


def page() -> str:
    """Return the whole page."""
    return "\n\n".join([_INTRODUCTION.rstrip(), *_model_sections(), *_plugin_sections()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
