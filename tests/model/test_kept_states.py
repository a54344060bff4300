"""What leaves the frozen layers is kept on disk: the same states, computed once, for several processes, bounded and safe."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import make_encoder
from full_disk import room_for_files
from torch.func import functional_call
from torch.testing import assert_close

import mtl.model.kept_states as module
from mtl.config import EncoderConfig
from mtl.errors import EncoderError
from mtl.model.encoder import load_encoder
from mtl.model.kept_states import KeptStates

TEXTS = ["the cat sat on the mat", "bob", "anna flew to paris from london", "the cat is very very good", "not bad"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four layers with dropout."""
    return make_encoder(tmp_path_factory.mktemp("four"), layers=4)


@pytest.fixture(autouse=True)
def _closed():
    yield
    for store in module._OPEN.values():
        store.close()
    module._OPEN.clear()


def load(folder, freeze=2, **values):
    return load_encoder(EncoderConfig(name=str(folder), max_length=32, freeze=freeze, **values), folder, attention="sdpa")


def inputs_of(encoder, texts=TEXTS):
    return dict(encoder.tokenizer.backend(texts, return_tensors="pt", padding=True))


@pytest.fixture
def computed(monkeypatch):
    """How many sequences were asked of the frozen layers."""
    counts = []
    compute = KeptStates._compute

    def count(self, missing, *arguments):
        counts.append(len(missing))
        return compute(self, missing, *arguments)

    monkeypatch.setattr(KeptStates, "_compute", count)
    return counts


@pytest.mark.parametrize("freeze", [1, 2, 4, "all"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_and_gradients_are_those_without_it(folder, tmp_path, freeze, precision):
    plain, keeping = (load(folder, freeze, precision=precision).eval() for _ in range(2))
    keeping.keep_frozen(tmp_path, 2**24)
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.1, "atol": 0.1}
    for _ in range(2):  # computed, then read
        expected, found = (encoder(inputs_of(encoder)).pooled for encoder in (plain, keeping))
        assert_close(found, expected, **near)
    if freeze in (1, 2):
        expected, found = (encoder(inputs_of(encoder)).pooled.pow(3).sum() for encoder in (plain, keeping))
        own = [next(encoder.layers()[-1].parameters()) for encoder in (plain, keeping)]
        assert_close(torch.autograd.grad(found, own[1])[0], torch.autograd.grad(expected, own[0])[0], **near)


def test_a_sequence_goes_through_the_frozen_layers_once_whatever_its_company(folder, tmp_path, computed):
    encoder = load(folder)
    encoder.keep_frozen(tmp_path, 2**24)
    encoder(inputs_of(encoder))
    encoder(inputs_of(encoder, TEXTS[::-1]))
    encoder(inputs_of(encoder, [TEXTS[1], "a dog", TEXTS[1]]))
    assert computed == [5, 1]


def test_bits_do_not_depend_on_what_was_asked_for_first(folder, tmp_path):
    states = []
    for number, order in enumerate((TEXTS, TEXTS[::-1], [TEXTS[3]])):
        encoder = load(folder, precision="bf16")
        encoder.keep_frozen(tmp_path / str(number), 2**24)
        encoder(inputs_of(encoder, order))
        states.append(encoder.trunk(inputs_of(encoder, [TEXTS[3]]), 2))
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_frozen_layers_have_no_dropout_and_the_others_do(folder, tmp_path):
    encoder = load(folder, dropout=0.5).train()
    encoder.keep_frozen(tmp_path, 2**24)
    below = [encoder.trunk(inputs_of(encoder), 2) for _ in range(2)]
    above = [encoder(inputs_of(encoder)).pooled for _ in range(2)]
    assert torch.equal(*below)
    assert not torch.equal(*above)
    assert encoder.backbone.training


def test_a_trunk_that_goes_higher_starts_from_what_is_kept(folder, tmp_path):
    plain, keeping = load(folder).eval(), load(folder).eval()
    keeping.keep_frozen(tmp_path, 2**24)
    inputs = inputs_of(plain)
    there = inputs["attention_mask"].bool()  # what is at padding means nothing
    assert_close(keeping.trunk(inputs, 3)[there], plain.trunk(inputs, 3)[there], rtol=1e-4, atol=1e-5)


def test_other_parameters_in_the_frozen_layers_are_seen(folder, tmp_path):
    encoder = load(folder).eval()
    encoder.keep_frozen(tmp_path, 2**24)
    before = encoder(inputs_of(encoder)).pooled
    other = {name: 2 * value for name, value in encoder.named_parameters() if "layer.0." in name}
    assert not torch.allclose(functional_call(encoder, other, (inputs_of(encoder),)).pooled, before, atol=1e-3)
    assert torch.equal(encoder(inputs_of(encoder)).pooled, before)


def test_other_weights_have_a_store_of_their_own(folder, tmp_path):
    first = load(folder)
    first.keep_frozen(tmp_path, 2**24)
    second = load(folder)
    next(second.layers()[0].parameters()).data.add_(1e-3)
    second.keep_frozen(tmp_path, 2**24)
    third = load(folder, freeze=1)
    third.keep_frozen(tmp_path, 2**24)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_store_goes_on_answering(folder, tmp_path, caplog):
    encoder = load(folder).eval()
    expected = encoder(inputs_of(encoder)).pooled
    encoder.keep_frozen(tmp_path, 2**14)  # room for less than the texts' states
    many = [f"the cat {number}" for number in range(64)]
    encoder(inputs_of(encoder, many))
    assert_close(encoder(inputs_of(encoder)).pooled, expected, rtol=1e-4, atol=1e-5)
    assert "takes no more" in caplog.text
    assert sum(path.stat().st_size for path in tmp_path.rglob("data.mdb")) <= 2**14


def test_a_disk_without_room_is_warned_of_and_states_are_computed_each_time(folder, tmp_path, caplog, computed):
    encoder = load(folder).eval()
    expected = encoder(inputs_of(encoder)).pooled
    encoder.keep_frozen(tmp_path, 2**24)
    with room_for_files(2**14):
        found = [encoder(inputs_of(encoder)).pooled for _ in range(2)]
    assert_close(found, [expected, expected], rtol=1e-4, atol=1e-5)
    assert computed == [5, 5]
    assert caplog.text.count("takes no more") == 1


def test_a_torn_store_is_made_again(folder, tmp_path, caplog):
    encoder = load(folder).eval()
    encoder.keep_frozen(tmp_path, 2**24)
    expected = encoder(inputs_of(encoder)).pooled
    _, store = module._OPEN.popitem()
    store.close()
    data = next(tmp_path.rglob("data.mdb"))
    data.write_bytes(b"torn" * 4096)
    again = load(folder).eval()
    again.keep_frozen(tmp_path, 2**24)
    assert_close(again(inputs_of(again)).pooled, expected)
    assert "is torn" in caplog.text


WRITER = """
import sys
import torch
from mtl.config import EncoderConfig
from mtl.model.encoder import load_encoder
torch.set_num_threads(1)
folder, place, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
from pathlib import Path
encoder = load_encoder(EncoderConfig(name=folder, max_length=32, freeze=2), Path(folder), attention="sdpa").eval()
encoder.keep_frozen(Path(place), 2**24)
for number in range(start, start + 40):
    encoder(dict(encoder.tokenizer.backend([f"bob {number}", f"anna {number % 7}"], return_tensors="pt", padding=True)))
    print(number, flush=True)
    if number == start + 20 and start:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_write_to_one_store_and_a_killed_one_leaves_it_whole(folder, tmp_path, computed):
    place = tmp_path / "states"
    command = [sys.executable, "-c", WRITER, str(folder), str(place)]
    both = [subprocess.Popen([*command, start], stdout=subprocess.DEVNULL) for start in ("0", "20")]
    assert [process.wait(timeout=120) for process in both] == [0, -9]
    encoder = load(folder).eval()
    expected = encoder(inputs_of(encoder, ["bob 3", "bob 25"])).pooled
    encoder.keep_frozen(place, 2**24)
    found = encoder(inputs_of(encoder, ["bob 3", "bob 25"])).pooled
    assert computed == []
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("freeze", ["none", "embeddings"])
def test_without_frozen_layers_there_is_nothing_to_keep(folder, tmp_path, freeze):
    with pytest.raises(EncoderError, match=r"encoder\.cache .* Set encoder\.freeze"):
        load(folder, freeze).keep_frozen(tmp_path, 2**24)


def test_a_folder_that_cannot_be_used_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EncoderError, match=r"encoder\.cache: .*file.* MTL_CACHE"):
        load(folder).keep_frozen(tmp_path / "file", 2**24)
