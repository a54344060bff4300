"""The example on public data: every task is read and trained, with a tiny encoder and a tiny budget."""

from __future__ import annotations

from conftest import ROOT, SHARED, needs_shared

import mtl

SIZES = {"snips/intent": 700, "snips/slots": 700, "trec": 500, "stsb": 1379, "subj": 1017, "rte": 277}


@needs_shared
def test_the_example_of_six_real_tasks_runs(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(SHARED))
    overrides = [
        f"encoder.name={encoder_folder}",
        f"output={tmp_path}",
        "budget={examples_per_task: 8}",
        "evaluation.times=0",
        "threads=1",
    ]
    finished = mtl.load_experiment(ROOT / "examples" / "real_tasks.yaml", overrides).run()
    joint, single = (run["results"] for run in finished.runs)
    assert {name: task["rows"]["test"] for name, task in joint["tasks"].items()} == SIZES
    assert {name: task["examples_seen"] for name, task in joint["tasks"].items()} == {
        name: task["examples_seen"] for name, task in single["tasks"].items()
    }
    assert len(joint["models"]) == 1
    assert len(single["models"]) == 6
