"""The example package, built as a wheel and installed in an environment with nothing but mtl."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from packaging_setup import installed, run, wheel  # noqa: F401

PACKAGE = ROOT / "examples" / "mtl-phrasebook-plugin"


@pytest.fixture(scope="module")
def environment(installed, tmp_path_factory) -> Path:
    """The bin folder of an environment with mtl and the example package."""
    folder = tmp_path_factory.mktemp("phrasebook")
    source = folder / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "runs"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*build, "--wheel-dir", folder / "dist", source, cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", installed / "python"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", built, cwd=folder)
    return installed


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of what an author would run, without the package's code."""
    for name in ("phrasebook.yaml", "notebook.py"):
        shutil.copy(PACKAGE / name, tmp_path)
    shutil.copytree(PACKAGE / "mtl_phrasebook" / "data", tmp_path / "mtl_phrasebook" / "data")
    return tmp_path


def test_it_is_found_by_its_entry_point(environment, tmp_path):
    found = {plugin["name"]: plugin for plugin in json.loads(run(environment / "mtl", "plugins", "--json", cwd=tmp_path))}
    about = found["phrasebook"]
    assert about["distribution"] == "mtl-phrasebook-plugin 1.0.0"
    assert about["registered"] == {"kind": ["vote-shares"], "task": ["phrasebook/situation", "phrasebook/tone"]}


def test_all_that_it_brings_keeps_the_contract(environment, tmp_path):
    lines = run(environment / "mtl", "check", "mtl-phrasebook-plugin", cwd=tmp_path).splitlines()
    assert len(lines) == 3 * 12
    others = [line.partition(": ")[0] for line in lines if not line.startswith("pass")]
    # The loss of shared votes does not fall to 0: their entropy is left, so that it does not say when they are learned.
    assert others == ["skip  kind 'vote-shares'"] * 2


def test_it_is_trained_and_asked(environment, folder, encoder_folder):
    options = {"ENCODER": str(encoder_folder), "MTL_CACHE": str(folder / "cache")}
    run(environment / "mtl", "run", "phrasebook.yaml", cwd=folder, env=options)
    (folder / "asked").write_text("Might I see the menu?\n")
    answer = json.loads(run(environment / "mtl", "predict", "runs/phrasebook", "--input", "asked", cwd=folder, env=options))
    assert answer["predictions"]["phrasebook/situation"]["label"] in ("hotel", "restaurant", "station")
    shares = answer["predictions"]["tone"]["shares"]
    assert list(shares) == ["casual", "formal", "neutral"]
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)


def test_the_notebook_does_the_same(environment, folder, encoder_folder):
    options = {"ENCODER": str(encoder_folder), "MTL_CACHE": str(folder / "cache")}
    assert "tone" in run(environment / "python", "notebook.py", cwd=folder, env=options)


def test_a_kind_is_at_most_120_lines_and_a_task_at_most_ten():
    assert len((PACKAGE / "mtl_phrasebook" / "shares.py").read_text().splitlines()) <= 120
    text = (PACKAGE / "mtl_phrasebook" / "__init__.py").read_text()
    assert len(text[text.index("SITUATION = ") : text.index("TONE = ")].splitlines()) <= 10
