"""Making a registered thing from its choice in the configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mtl.config import Choice
from mtl.errors import ConfigError, did_you_mean, explain_validation
from mtl.plugins import Plugins
from mtl.registry import Registry


def build(registry: Registry, choice: Choice) -> Any:
    """Return the thing that ``choice`` names, made with its options.

    The thing is a dataclass; its fields are the options, checked against their annotations.

    Raises:
        UnknownNameError: If nothing is registered under the name.
        ConfigError: If an option is unknown or its value is not valid.
    """
    cls = registry.get(choice.name)
    where = f"{registry.what} {choice.name!r}"
    known = {field.name for field in dataclasses.fields(cls) if field.init} if dataclasses.is_dataclass(cls) else set()
    for option in choice.options:
        if option not in known:
            has = f"It has: {', '.join(sorted(known))}." if known else "It has none."
            raise ConfigError(" ".join(filter(None, [f"{where}: unknown option {option!r}.", did_you_mean(option, known), has])))
    if not known:
        return cls()
    try:
        return TypeAdapter(cls).validate_python(choice.options)
    except ValidationError as error:
        raise explain_validation(error, where, known) from error


class Builder:
    """Makes things by sort and choice: ``build("weighting", Choice(name="dwa"))``."""

    def __init__(self, plugins: Plugins) -> None:
        self._registries = {
            registry.what: registry
            for registry in (
                plugins.strategies,
                plugins.weightings,
                plugins.aggregations,
                plugins.samplers,
                plugins.adaptations,
                plugins.adapters,
                plugins.protocols,
                plugins.backends,
            )
        }

    def __call__(self, what: str, choice: Choice) -> Any:
        """Return the thing of sort ``what`` that ``choice`` names."""
        return build(self._registries[what], choice)
