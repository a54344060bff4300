"""What a report reads from a grid's folder: the gradients that its runs have looked at, each method's for itself."""

from __future__ import annotations

import json

import pytest
from conftest import sentiment_rows, splits

import mtl
from mtl.report.grid import read_grid
from mtl.report.write import read_folder

TITLE = "Cosine of the tasks' gradients, mean over training"


@pytest.fixture(scope="module")
def compared(encoder_folder, tmp_path_factory):
    """A comparison of two methods that look at the tasks' gradients, two seeds each."""
    folder = tmp_path_factory.mktemp("grid")
    experiment = mtl.Experiment.of(
        name="looked",
        strategy="balanced",
        encoder={"name": str(encoder_folder), "max_length": 32},
        tasks=[{"name": name, "kind": "classification", "data": splits(sentiment_rows(16))} for name in ("mood", "temper")],
        budget={"epochs": 1},
        batch={"size": 8},
        evaluation={"times": 1},
        output=str(folder),
    )
    axes = {"strategy.aggregation": ["mean", "graddrop"], "seed": [0, 1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_CACHE", str(folder / "cache"))
        return experiment.over(axes).compare(jobs=1).folder


def test_every_method_that_has_looked_at_gradients_has_a_matrix_of_its_own(compared):
    kept, results = read_folder(compared)
    shown = {"mean": {0: 0.2, 1: 0.4}, "graddrop": {0: -0.5, 1: -0.1}}
    for cell in kept["cells"]:
        cosine = shown[cell["point"]["strategy.aggregation"]][cell["point"]["seed"]]
        for log in (compared / cell["folder"]).glob("models/*/log.jsonl"):
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            for line in lines:
                if "gradients" in line:
                    line["gradients"]["cosines"] = [[1.0, cosine], [cosine, 1.0]]
            log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    grid = read_grid(compared, kept, results)
    found = {matrix.title: matrix.values[0][1] for matrix in grid.matrices}
    assert [column.label for column in grid.columns] == ["mean", "graddrop"]
    # The means of two seeds with as many steps: of 0.2 and 0.4, of −0.5 and −0.1.
    assert found == pytest.approx({f"{TITLE}: mean": 0.3, f"{TITLE}: graddrop": -0.3})


def test_where_one_method_has_looked_the_matrix_has_no_name_of_a_method(compared):
    kept, results = read_folder(compared)
    cells = zip(kept["cells"], results, strict=True)
    without = [None if cell["point"]["strategy.aggregation"] == "mean" else run for cell, run in cells]
    assert [matrix.title for matrix in read_grid(compared, kept, without).matrices] == [TITLE]


def test_a_run_that_has_looked_at_gradients_shows_their_norms(compared):
    run = compared / read_folder(compared)[0]["cells"][0]["folder"]
    assert (run / "plots" / "joint" / "gradient-norm.png").is_file()
    assert "![gradient-norm](plots/joint/gradient-norm.png)" in (run / "results.md").read_text(encoding="utf-8")
