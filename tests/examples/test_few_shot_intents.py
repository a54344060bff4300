"""The example of few-shot intents: every strategy is asked the same episodes of classes never trained, with a tiny encoder."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT, SHARED, needs_shared

import mtl


@needs_shared
@pytest.mark.parametrize(("name", "split"), [("banking77", "split4"), ("clinc150", "split1")])
def test_the_example_of_few_shot_intents_runs(encoder_folder, tmp_path, monkeypatch, name, split):
    monkeypatch.setenv("DATA", str(SHARED))
    overrides = [
        f"encoder.name={encoder_folder}",
        f"define.SET={name}",
        f"output={tmp_path}",
        "targets.protocol.episodes=3",
        "targets.validation_episodes=2",
        "budget={examples_per_task: 200}",
        "evaluation.times=1",
        f"compare={{strategy: [none, protonet], define.SPLIT: [{split}]}}",
        "threads=1",
    ]
    finished = mtl.load_experiment(ROOT / "examples" / "few_shot_intents.yaml", overrides).run()
    none, protonet = (run["results"] for run in finished.runs)
    figures = [next(iter(run["targets"].values()))["figures"]["test"] for run in (none, protonet)]
    assert [list(found) for found in figures] == [["prototype", "soft-k-means"], ["inner-loop", "soft-k-means"]]
    assert all(len(found[shots]) == 3 for by in figures for found in by.values() for shots in ("1", "5"))
    manifests = [json.loads(path.read_text()) for path in finished.folder.glob("manifests/test-*.json")]
    assert len(manifests) == 1  # read by both
    shared = sum(count for by_target in protonet["overlaps"].values() for count in by_target.values())
    assert 1 <= shared <= 10  # these splits have a few texts under two classes; they are left out and counted


def test_every_strategy_of_episodes_is_a_cell_of_the_example(monkeypatch):
    monkeypatch.setenv("DATA", "data")
    experiment = mtl.load_experiment(ROOT / "examples" / "few_shot_intents.yaml")
    cells = experiment.cells()  # names and options are checked
    methods = {cell.config.strategy.name for cell in cells}
    with_options = 2  # MAML++ is maml, protonet-euclidean is protonet
    assert len(cells) == 5 * len({cell.point["cell"] for cell in cells}) == 5 * (len(methods) + with_options)
    registered = set(experiment.load_plugins().strategies)
    several = {"balanced", "balanced-at-once", "balanced-features"}  # tasks are needed; single is the same as joint with one
    assert methods == registered - several - {"single"}
