"""Every kind has a page that names its roles, options and metrics, and says whether it has episodes."""

from __future__ import annotations

import pytest
from conftest import ROOT

from mtl.plugins import load_plugins

PAGES = ROOT / "docs" / "kinds"
_PLUGINS = load_plugins()
#: Said in words: "and `macro_`, `micro_` and `weighted_` with …".
_AVERAGED = ("macro_", "micro_", "weighted_")


@pytest.mark.parametrize("name", list(_PLUGINS.kinds))
def test_a_kind_has_a_page_that_says_what_it_takes_and_gives(name):
    kind, page = _PLUGINS.kinds.get(name), (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for role in kind.roles:
        assert f"`{role}`" in page, role
    for option in kind.Options.model_fields:
        assert f"`{option}`" in page or f"`{option}:" in page, option
    if "[classification](classification.md)" not in page:
        for metric in kind.metrics:
            if metric.higher_is_better is not None and not metric.name.startswith(_AVERAGED):
                assert f"`{metric.name}`" in page, metric.name
    assert "**Episodes**" in page or "[classification](classification.md)" in page
    assert page.partition("**Episodes**: none")[1] == "" or not kind.episodic


def test_the_table_of_contents_lists_every_kind():
    listed = (PAGES / "README.md").read_text(encoding="utf-8")
    for name in _PLUGINS.kinds:
        line = next(line for line in listed.splitlines() if line.startswith(f"| [{name}]({name}.md)"))
        assert line.endswith("| yes |" if _PLUGINS.kinds.get(name).episodic else "| no |")
    assert {path.stem for path in PAGES.glob("*.md")} == {*_PLUGINS.kinds, "README"}
