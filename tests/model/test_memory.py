"""How much memory is free: of the machine, of the process's group, of a GPU."""

from __future__ import annotations

import pytest
import torch

import mtl.model.memory as module
from mtl.model.memory import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 1,000 kB available, and the folder of its process groups."""
    (tmp_path / "meminfo").write_text("MemTotal:       4000 kB\nMemAvailable:   1000 kB\n")
    group = tmp_path / "cgroup"
    group.mkdir()
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_GROUP", group)
    return group


def test_it_is_what_the_system_calls_available(machine):
    assert free_memory(CPU) == 1000 * 1024


@pytest.mark.parametrize(("most", "free"), [("max", 1_024_000), ("500000", 400_000), ("5000000", 1_024_000), ("50000", 0)])
def test_a_container_may_have_less(machine, most, free):
    (machine / "memory.max").write_text(f"{most}\n")
    (machine / "memory.current").write_text("100000\n")
    assert free_memory(CPU) == free


def test_a_gpu_has_its_own(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (77, 1000))
    assert free_memory(torch.device("cuda")) == 77


def test_elsewhere_nobody_says(machine, tmp_path, monkeypatch):
    assert free_memory(torch.device("mps")) is None
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "nothing")
    assert free_memory(CPU) is None
