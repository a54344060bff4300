"""Slow libraries have one importer each, and nothing is pickled."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = {"mtl": ROOT / "mtl", "mtl_plugins": ROOT / "plugins" / "mtl_plugins", "mtl_tasks": ROOT / "tasks" / "mtl_tasks"}
MODULES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))


@cache
def imported_by(path: Path) -> frozenset[str]:
    """Return the full names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def importers(library: str) -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imported_by(path))
    ]


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("transformers", ["mtl/model/pretrained.py", "mtl/testing/encoder.py"]),  # the second writes one for checks
        ("datasets", ["mtl/data/tables.py"]),
        ("matplotlib", ["mtl/report/plots.py"]),
    ],
)
def test_a_slow_library_has_one_importer(library, modules):
    assert importers(library) == modules


@pytest.mark.parametrize("library", ["pickle", "cloudpickle", "dill", "shelve", "marshal"])
def test_nothing_is_pickled(library):
    assert importers(library) == []


def test_joblib_sends_work_and_keeps_no_files():
    used = {name for path in MODULES for name in imported_by(path) if name.partition(".")[0] == "joblib"}
    # Not joblib.dump, joblib.load or joblib.Memory, which pickle to files.
    assert used == {"joblib", "joblib.Parallel", "joblib.delayed", "joblib.parallel_config"}


@pytest.mark.parametrize("library", ["altair", "vl_convert"])
def test_charts_have_one_importer_of_each_library(library):
    assert len(importers(library)) == 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_calls_torch_load_or_save_eval_or_exec(path):
    forbidden = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("torch.load", "torch.save", "eval", "exec", "np.load", "numpy.load"):
                forbidden.add(called)
    assert not forbidden


@pytest.mark.parametrize("room", ["mtl_plugins", "mtl_tasks"])
def test_the_core_does_not_import_the_rooms(room):
    assert [name for name in importers(room) if name.startswith("mtl/")] == []


def test_importing_mtl_is_quick_and_its_public_names_are_there():
    code = (
        "import sys, mtl\n"
        "slow = {'torch', 'transformers', 'datasets', 'sklearn', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "mtl.Task, mtl.hookimpl, mtl.Experiment, mtl.MTLError\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(mtl.__all__) <= set(dir(mtl))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_every_public_name_resolves():
    import mtl

    for name in mtl.__all__:
        assert getattr(mtl, name).__module__.startswith(("mtl", "pluggy")), name
    with pytest.raises(AttributeError, match="module 'mtl' has no attribute 'Trainer'"):
        _ = mtl.Trainer
