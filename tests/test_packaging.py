"""The wheel, installed by itself into a new environment, has everything that the command line needs."""

from __future__ import annotations

import json
import zipfile

from conftest import ROOT
from packaging_setup import installed, run, wheel  # noqa: F401

import mtl


def test_the_wheel_has_every_module_and_the_corpus(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for base, package in ((ROOT, "mtl"), (ROOT / "plugins", "mtl_plugins"), (ROOT / "tasks", "mtl_tasks")):
        expected |= {str(path.relative_to(base)) for path in (base / package).rglob("*.py")}
        expected.add(f"{package}/py.typed")
    corpus = ROOT / "tasks" / "mtl_tasks" / "helpdesk"
    expected |= {f"mtl_tasks/helpdesk/{path.name}" for path in corpus.iterdir() if path.suffix in (".jsonl", ".json", ".yaml")}
    assert expected <= names, sorted(expected - names)
    assert len([name for name in names if name.endswith(".jsonl")]) >= 6


def test_the_wheel_has_nothing_else(wheel):
    roots = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert roots == {"mtl", "mtl_plugins", "mtl_tasks", f"mtl-{mtl.__version__}.dist-info"}


def test_the_installed_command_prints_its_version(installed, tmp_path):
    assert run(installed / "mtl", "--version", cwd=tmp_path) == f"mtl {mtl.__version__}\n"


def test_the_installed_command_lists_the_corpus_from_its_own_files(installed, tmp_path):
    listed = json.loads(run(installed / "mtl", "tasks", "--json", cwd=tmp_path))
    assert "helpdesk/intent" in [task["name"] for task in listed["tasks"]]
    code = "import mtl, mtl_tasks, mtl_plugins; print(mtl.__file__, mtl_tasks.__file__, mtl_plugins.__file__)"
    places = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert all(place.startswith(str(installed.parent)) for place in places), places
