"""The examples of kinds run from end to end on their real rows, with a tiny encoder and few of them."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT, SHARED, needs_shared

import mtl

EXAMPLES = sorted((ROOT / "examples" / "kinds").glob("*.yaml"))
#: What makes a kind slow however few rows there are.
SMALLER = {"vocabulary_size": 300, "longest": 8, "beams": 1, "layers": 1}


@needs_shared
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path, encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(SHARED))
    values = yaml.safe_load(path.read_text())
    for task in values["tasks"]:
        task["max_rows"] = {"train": 300, "validation": 8, "test": 8}
        task["bad_rows"] = "drop"  # labels that few rows do not have, texts too long for the encoder
        options = task.get("options", {})
        options |= {key: value for key, value in SMALLER.items() if key in options}
    small = tmp_path / path.name
    small.write_text(yaml.safe_dump(values))
    overrides = [
        f"encoder={{name: {encoder_folder}, max_length: 128}}",
        f"output={tmp_path}",
        "budget={examples_per_task: 16}",
        "batch.size=8",
        "evaluation.times=1",
        "threads=1",
    ]
    runs = mtl.load_experiment(small, overrides).run().runs
    assert set().union(*(run["results"]["tasks"] for run in runs)) == {task["name"] for task in values["tasks"]}
