"""docs/configuration.md says what the typed configuration says, and every key has a meaning."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from mtl.config import ExperimentConfig

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "configuration_doc.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("configuration_doc", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python scripts/configuration_doc.py"


def test_every_model_of_the_experiment_file_is_on_the_page(script):
    named = set(ExperimentConfig.model_json_schema()["$defs"]) - {"Choice"}
    assert {model.__name__ for model in script.models()} == named | {"ExperimentConfig"}


def test_every_link_of_the_page_has_its_heading(script):
    page = script.page()
    headings = {script.anchor(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")}
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert len(links) > 5
    assert links <= headings


def test_a_key_without_a_meaning_is_refused(script):
    class Vague(BaseModel):
        """Something.

        Args:
            clear: Has a meaning
                on two lines.
        """

        clear: int = 1
        dark: int = 2

    assert script.arguments(Vague) == {"clear": "Has a meaning on two lines."}
    with pytest.raises(script.MissingMeaningError, match="do not explain 'dark'"):
        list(script.table(Vague, Vague.model_json_schema(), {"clear": 1, "dark": 2}))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number ≥ 1"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, "number > 0 or nothing"),
        ({"enum": ["mean", "cls"], "type": "string"}, "`mean`, `cls`"),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"$ref": "#/$defs/Choice"}, "name with options"),
    ],
)
def test_a_type_is_said_in_words(script, schema, words):
    assert script.type_of(schema) == words
