"""The examples of transfer between domains and of names: run from end to end on their real rows, with a tiny encoder."""

from __future__ import annotations

import pytest
from conftest import ROOT, SHARED, needs_shared

import mtl

QUICK = [
    "budget={examples_per_task: 40}",
    "evaluation.times=1",
    "threads=1",
    "compare={strategy: [none, protonet]}",
]
EXAMPLES = {
    "domain_transfer": (["targets.protocol.draws=2", "targets.shots=[1]"], {"banking", "travel", "home"}),
    "sentiment_transfer": (["targets.protocol.draws=2", "targets.shots=[1]", "encoder.max_length=16"], {"books", "dvd"}),
    "few_shot_names": (["targets.protocol.episodes=2", "targets.validation_episodes=1", "targets.shots=[0, 1]"], {"test"}),
}


@needs_shared
@pytest.mark.parametrize(("name", "overrides", "targets"), [(name, *values) for name, values in EXAMPLES.items()])
def test_the_example_runs(name, overrides, targets, encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(SHARED))
    overrides = [f"encoder.name={encoder_folder}", f"output={tmp_path}", *QUICK, *overrides]
    finished = mtl.load_experiment(ROOT / "examples" / f"{name}.yaml", overrides).run()
    for run in finished.runs:
        assert set(next(iter(run["results"]["targets"].values()))["figures"]) == targets


@pytest.mark.parametrize(("name", "cells"), [("domain_transfer", 12), ("sentiment_transfer", 12), ("few_shot_names", 10)])
def test_every_cell_of_the_example_is_valid(name, cells, monkeypatch):
    monkeypatch.setenv("DATA", "data")
    assert len(mtl.load_experiment(ROOT / "examples" / f"{name}.yaml").cells()) == cells
