"""The example grid: every one of its seven methods runs on real rows, with a tiny encoder of six layers and few of them."""

from __future__ import annotations

from conftest import ROOT, SHARED, make_encoder, needs_shared, smaller

import mtl

EXAMPLE = ROOT / "examples" / "was_it_worth_it.yaml"


@needs_shared
def test_every_method_of_the_grid_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(SHARED))
    small = smaller(EXAMPLE, tmp_path, {"validation": 15, "test": 15})
    overrides = [
        f"encoder.name={make_encoder(tmp_path / 'encoder', layers=6)}",
        "encoder.cache=0.1",
        f"output={tmp_path}",
        "targets.protocol.episodes=2",
        "targets.shots=[1]",
        "budget={examples_per_task: 50}",
        "evaluation.times=0",
        "compare.seed=[0]",
    ]
    finished = mtl.load_experiment(small, overrides).compare(jobs=1)
    assert [run["error"] for run in finished.runs] == [None] * 7
    assert {run["point"]["cell"] for run in finished.runs} > {"none", "single", "reptile", "fomaml"}
    assert (finished.folder / "report.html").is_file()


def test_the_grid_has_every_method_on_three_seeds(monkeypatch):
    monkeypatch.setenv("DATA", "data")
    cells = mtl.load_experiment(EXAMPLE).cells()
    assert len(cells) == 21
    assert {cell.config.seed for cell in cells} == {0, 1, 2}
