"""The wheel, installed by itself into a new environment, has everything that the command line needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import mtl


def run(*command: object, **options) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MTL_PLUGINS")}
    done = subprocess.run(
        [*map(str, command)],
        env={**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy so that nothing is left in the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("mtl", "plugins", "tasks"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*build, "--wheel-dir", folder / "dist", folder / "source", cwd=folder)
    (built,) = (folder / "dist").glob("mtl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a new environment with the wheel; what it depends on is borrowed from the running one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


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
