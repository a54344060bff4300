"""The affinity plugin writes cosines between the gradients of tasks, and changes nothing of the run."""

from __future__ import annotations

import hashlib
import json

import pytest

import mtl


@pytest.fixture
def values(experiment_values):
    return experiment_values | {"batch": {"size": 8, "mixed": True}}


def finish(values, *plugins):
    finished = mtl.Experiment.of(**values, plugins=list(plugins)).run()
    digests = {
        str(path.relative_to(finished.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in finished.folder.glob("models/**/*.safetensors")
    }
    return finished.folder, finished.runs[0]["results"]["tasks"], digests


def test_every_look_is_a_matrix_of_cosines(values):
    folder, _, _ = finish(values, "mtl_plugins.affinity")
    looks = json.loads((folder / "models" / "joint" / "affinity.json").read_text())["looks"]
    assert len(looks) == 2  # evaluations
    for look in looks:
        assert look["tasks"] == ["mood", "places", "rating"]
        for row, cosines in enumerate(look["cosines"]):
            assert cosines[row] == pytest.approx(1, abs=1e-5)
            assert all(-1 <= cosine < 0.999 for column, cosine in enumerate(cosines) if column != row)
            assert cosines == pytest.approx([line[row] for line in look["cosines"]], abs=1e-6)


def test_the_run_is_as_without_it(values, tmp_path):
    _, figures, weights = finish(values, "mtl_plugins.affinity")
    _, own_figures, own_weights = finish(values | {"output": str(tmp_path / "other")})
    assert weights
    assert (figures, weights) == (own_figures, own_weights)


def test_one_task_has_no_affinity(values):
    folder, _, _ = finish(values | {"sources": ["mood"]}, "mtl_plugins.affinity")
    assert (folder / "models" / "joint").is_dir()
    assert not (folder / "models" / "joint" / "affinity.json").exists()
