from __future__ import annotations

import json
from pathlib import Path

import mtl


def test_an_experiment_trains_three_kinds_on_one_encoder(experiment_values):
    finished = mtl.Experiment.of(**experiment_values).run()
    results = finished.runs[0]["results"]
    assert set(results["tasks"]) == {"mood", "rating", "places"}
    written = json.loads((finished.folder / "results.json").read_text())
    assert written == results
    for file in ("config.yaml", "environment.json", "data.json", "results.md", "models/joint/bundle.json"):
        assert (finished.folder / file).is_file(), file
    assert list(Path(finished.folder).glob("plots/**/*.png"))
