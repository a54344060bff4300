"""TensorFloat-32 is a setting of CUDA devices, and of a run: it is written down, and gone when the run is over."""

from __future__ import annotations

import json

import pytest
import torch

import mtl
import mtl.run
from mtl.model.device import multiplying


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize(
    ("device", "tf32", "inside"), [("cuda", True, "high"), ("cuda:1", False, "highest"), ("cpu", True, None), ("mps", True, None)]
)
def test_products_are_set_on_cuda_devices_and_set_back(before, device, tf32, inside):
    torch.set_float32_matmul_precision(before)
    seen = []

    def stop():
        with multiplying(torch.device(device), tf32=tf32):
            seen.append(torch.get_float32_matmul_precision())
            raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        stop()
    assert seen == [inside or before]
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("tf32", "written"), [(True, "high"), (False, "highest")])
def test_a_run_writes_down_how_it_multiplies(experiment_values, monkeypatch, tf32, written):
    # A CPU stands for a CUDA device: the setting is PyTorch's, the device's kernels are not asked.
    monkeypatch.setattr(mtl.run, "multiplying", lambda device, *, tf32: multiplying(torch.device("cuda"), tf32=tf32))
    values = {**experiment_values, "tasks": experiment_values["tasks"][:1], "budget": {"epochs": 0.5}, "tf32": tf32}
    folder = mtl.Experiment.of(**values).run().folder
    assert json.loads((folder / "environment.json").read_text())["float32_products"] == written
    assert torch.get_float32_matmul_precision() == "highest"
