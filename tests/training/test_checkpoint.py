"""Checkpoints are whole or not there, and hold no pickle."""

from __future__ import annotations

import errno
import json
import logging
import math
import struct

import pytest
import torch
from torch.testing import assert_close

from mtl.errors import CheckpointError
from mtl.training.checkpoint import load_checkpoint, load_state, save_checkpoint, save_state


def tear(path):
    """Keep the first half of a file, as a crash in the middle of a write would."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {
        "tensors": {"matrix": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(7), "empty": torch.zeros(0)},
        "by_number": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.tensor(4.0)}},
        "list": [1, 2.5, None, True, "text", [torch.ones(1)]],
        "big": 2**127,  # the state of PCG64 is of this size
        "third": 1 / 3,
    }
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state")
    assert_close(loaded["tensors"], state["tensors"], rtol=0, atol=0)
    assert loaded["by_number"].keys() == {0, 1}  # numbers stay numbers, as optimizers want them
    assert loaded["by_number"][1]["step"] == 4
    assert loaded["list"][:5] == state["list"][:5]
    assert loaded["list"][5][0] == torch.ones(1)
    assert loaded["big"] == 2**127
    assert loaded["third"] == 1 / 3


def test_nan_and_infinity_come_back(tmp_path):
    save_state(tmp_path / "state", {"means": [math.nan, math.inf]})
    first, second = load_state(tmp_path / "state")["means"]
    assert math.isnan(first)
    assert second == math.inf


def test_tied_tensors_are_kept_once_and_come_back_tied(tmp_path):
    weight = torch.arange(4096.0)
    save_state(tmp_path / "state", {"input": weight, "output": weight})
    assert (tmp_path / "state").stat().st_size < 2 * weight.nbytes
    loaded = load_state(tmp_path / "state")
    assert_close(loaded["output"], weight)
    assert loaded["input"] is loaded["output"]


def test_views_of_one_tensor_come_back_each(tmp_path):
    whole = torch.arange(6.0)
    views = {"whole": whole, "part": whole[:2], "folded": whole.view(3, 2), "turned": whole.view(2, 3).t()}
    save_state(tmp_path / "state", views)
    assert_close(load_state(tmp_path / "state"), views, rtol=0, atol=0)


def test_a_state_is_safetensors_with_json_and_nothing_else(tmp_path):
    save_state(tmp_path / "state", {"weight": torch.ones(2), "step": 3})
    content = (tmp_path / "state").read_bytes()
    # The format: 8 bytes little-endian length of the header, the header as JSON, the bytes of the tensors.
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert set(header) == {"__metadata__", "/weight"}
    assert len(content) == 8 + length + 2 * 4


def test_something_that_is_neither_tensor_nor_json_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_state(tmp_path / "state", {"code": object()})
    assert names(tmp_path) == []


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for step in (1, 9, 10, 100):
        save_checkpoint(tmp_path, step, {"step": step})
    assert names(tmp_path) == ["step-000000010.safetensors", "step-000000100.safetensors"]
    assert load_checkpoint(tmp_path) == {"step": 100}


def test_no_checkpoint_is_no_state(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "never made") is None


def test_a_write_that_fails_half_way_names_the_file_and_keeps_the_former(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"step": 1})

    def fill_the_disk(tensors, path, metadata):
        path.write_bytes(b"half a fi")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mtl.model.state.save_file", fill_the_disk)
    with pytest.raises(CheckpointError, match=r"step-000000002\.safetensors cannot be written: .*No space left.*before is kept"):
        save_checkpoint(tmp_path, 2, {"step": 2})
    assert names(tmp_path) == ["step-000000001.safetensors"]  # nor a temporary file
    assert load_checkpoint(tmp_path) == {"step": 1}


def test_a_write_that_fails_does_not_touch_what_is_under_the_same_name(tmp_path, monkeypatch):
    save_state(tmp_path / "best", {"step": 1})

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mtl.model.state.save_file", fail)
    with pytest.raises(CheckpointError, match="best cannot be written"):
        save_state(tmp_path / "best", {"step": 2})
    assert load_state(tmp_path / "best") == {"step": 1}


def test_an_abandoned_temporary_file_is_not_taken_for_a_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1})
    (tmp_path / ".step-000000002.safetensors.x7.part").write_bytes(b"half")  # as SIGKILL leaves it
    assert load_checkpoint(tmp_path) == {"step": 1}


def test_a_torn_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step, "weight": torch.ones(64)})
    tear(tmp_path / "step-000000002.safetensors")
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path)["step"] == 1
    (record,) = caplog.records
    assert str(tmp_path / "step-000000002.safetensors") in record.getMessage()
    assert "The checkpoint before it is used." in record.getMessage()


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not a checkpoint", None])
def test_when_all_checkpoints_are_torn_there_is_an_error_that_names_them(tmp_path, content):
    for step in (1, 2):
        path = tmp_path / f"step-{step:09d}.safetensors"
        if content is None:
            save_state(path, {"step": step, "weight": torch.ones(64)})
            tear(path)
        else:
            path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"No checkpoint in .*step-000000002.*step-000000001.*Remove the folder"):
        load_checkpoint(tmp_path)


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors is torn or is not a checkpoint"):
        load_state(tmp_path / "other.safetensors")
