"""Write docs/hooks.md from mtl/hookspecs.py: ``python scripts/hooks_doc.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtl import hookspecs

PAGE = Path(__file__).parent.parent / "docs" / "hooks.md"
#: Every hook, in the order of mtl/hookspecs.py.
HOOKS: list[Callable[..., Any]] = [hook for name, hook in vars(hookspecs).items() if name.startswith("mtl_")]


def signature_of(hook: Callable[..., Any]) -> str:
    """Return a hook's signature as it is written in mtl/hookspecs.py."""
    signature = inspect.signature(hook)
    parameters = ", ".join(f"{name}: {parameter.annotation}" for name, parameter in signature.parameters.items())
    return f"{hook.__name__}({parameters}) -> {signature.return_annotation}"


def page() -> str:
    """Return the page."""
    registration = [hook for hook in HOOKS if hook.__name__.startswith("mtl_register_")]
    life_cycle = [hook for hook in HOOKS if hook not in registration]
    parts = ["<!-- Written by scripts/hooks_doc.py from mtl/hookspecs.py. Change it there. -->", "# Hooks"]
    parts.append(_markdown(inspect.getdoc(hookspecs)))
    for title, hooks in (("Registration", registration), ("Life cycle of a run", life_cycle)):
        parts.append(f"## {title}")
        for hook in hooks:
            parts += [f"### {hook.__name__}", f"```python\n{signature_of(hook)}\n```", _markdown(inspect.getdoc(hook))]
    return "\n\n".join(parts) + "\n"


def _markdown(text: str | None) -> str:
    return (text or "").replace("``", "`")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
