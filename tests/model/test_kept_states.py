"""What leaves the frozen layers is kept on disk: the same states, computed once, for several processes, bounded and safe."""

from __future__ import annotations

import os
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
    close()


def close():
    """Close all stores, as the end of a process does."""
    while module._OPEN:
        for opened in module._OPEN.popitem()[1]:
            opened.close()


def load(folder, freeze=2, **values):
    return load_encoder(EncoderConfig(name=str(folder), max_length=32, freeze=freeze, **values), folder, attention="sdpa")


def inputs_of(encoder, texts=TEXTS):
    return dict(encoder.tokenizer.backend(texts, return_tensors="pt", padding=True))


def stores(place):
    return {path.parent for path in place.glob("*/data.mdb")}


def taken(place):
    """Return the bytes of all stores in a folder."""
    return sum(path.stat().st_size for path in place.rglob("data.mdb"))


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


def test_every_weights_depth_and_precision_has_a_store_of_its_own(folder, tmp_path):
    other = load(folder, precision="fp32")
    next(other.layers()[0].parameters()).data.add_(1e-3)
    encoders = [load(folder, precision="fp32"), other, load(folder, 1, precision="fp32"), load(folder, precision="bf16")]
    for number, encoder in enumerate(encoders, 1):
        encoder.keep_frozen(tmp_path, 2**24)
        assert len(stores(tmp_path)) == number
    load(folder, precision="bf16").keep_frozen(tmp_path, 2**24)
    assert len(stores(tmp_path)) == len(encoders)


def test_a_full_store_goes_on_answering(folder, tmp_path, caplog):
    encoder = load(folder).eval()
    expected = encoder(inputs_of(encoder)).pooled
    encoder.keep_frozen(tmp_path, 2**14)  # room for less than the texts' states
    many = [f"the cat {number}" for number in range(64)]
    encoder(inputs_of(encoder, many))
    assert_close(encoder(inputs_of(encoder)).pooled, expected, rtol=1e-4, atol=1e-5)
    assert "takes no more" in caplog.text
    assert taken(tmp_path) <= 2**14


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
    close()
    data = next(tmp_path.rglob("data.mdb"))
    data.write_bytes(b"torn" * 4096)
    again = load(folder).eval()
    again.keep_frozen(tmp_path, 2**24)
    assert_close(again(inputs_of(again)).pooled, expected)
    assert "is torn" in caplog.text


WRITER = """
import os, signal, sys
from pathlib import Path
import torch
from mtl.config import EncoderConfig
from mtl.model.encoder import load_encoder
torch.set_num_threads(1)
folder, place, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
encoder = load_encoder(EncoderConfig(name=folder, max_length=32, freeze=2), Path(folder), attention="sdpa").eval()
encoder.keep_frozen(Path(place), 2**24)
for number in range(start, start + 40):
    encoder(dict(encoder.tokenizer.backend([f"bob {number}", f"anna {number % 7}"], return_tensors="pt", padding=True)))
    print(number, flush=True)
    if number == start + 20 and start:
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


def test_a_store_that_another_process_has_grown_over_the_own_bound_is_read_and_not_grown_further(
    folder, tmp_path, caplog, computed
):
    encoder = load(folder).eval()
    encoder.keep_frozen(tmp_path, 2**15)
    encoder(inputs_of(encoder, ["bob"]))
    subprocess.run([sys.executable, "-c", WRITER, str(folder), str(tmp_path), "0"], stdout=subprocess.DEVNULL, check=True)
    there = taken(tmp_path)
    assert there > 2**15
    encoder(inputs_of(encoder, ["bob 3", "bob 39"]))
    assert computed == [1]  # the first "bob" alone
    encoder(inputs_of(encoder, [f"the cat {number}" for number in range(64)]))
    assert computed == [1, 64]
    assert "MDB_MAP_FULL" in caplog.text
    assert taken(tmp_path) == there


def test_a_store_that_another_process_grows_while_states_are_computed_is_not_taken_for_full(
    folder, tmp_path, caplog, computed, monkeypatch
):
    encoder = load(folder).eval()
    encoder.keep_frozen(tmp_path, 2**15)
    compute = KeptStates._compute
    command = [sys.executable, "-c", WRITER, str(folder), str(tmp_path), "0"]

    def late(*arguments):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return compute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(KeptStates, "_compute", late)
        encoder(inputs_of(encoder, ["bob 3"]))
    assert taken(tmp_path) > 2**15
    assert not caplog.text  # the other process has written the same: there is nothing to write
    encoder.keep_frozen(tmp_path, 2**24)
    many = [f"the cat {number}" for number in range(64)]
    encoder(inputs_of(encoder, [*many, "bob 3"]))
    encoder(inputs_of(encoder, many))
    assert computed == [1, 64]


@pytest.mark.parametrize(("bounds", "kept"), [((2**14, 2**24), True), ((2**24, 2**14), False)], ids=["larger", "smaller"])
def test_of_two_bounds_in_one_process_the_later_one_counts(folder, tmp_path, computed, bounds, kept):
    encoder = load(folder).eval()
    for bound in bounds:
        encoder.keep_frozen(tmp_path, bound)
    many = [f"the cat {number}" for number in range(64)]
    encoder(inputs_of(encoder, many))
    encoder(inputs_of(encoder, many))
    assert computed == ([64] if kept else [64, 64])
    assert (taken(tmp_path) <= 2**14) is not kept


def test_a_bound_that_cannot_be_addressed_is_refused_and_the_store_goes_on_after_it(folder, tmp_path, computed):
    encoder = load(folder).eval()
    encoder.keep_frozen(tmp_path, 2**24)
    encoder(inputs_of(encoder))
    with pytest.raises(EncoderError, match=r"encoder\.cache: .* cannot be opened"):
        encoder.keep_frozen(tmp_path, 2**60)
    encoder.keep_frozen(tmp_path, 2**24)
    encoder(inputs_of(encoder))
    assert computed == [5]


def filled(folder, place, freeze, used, bound=1):
    """Make a store for a depth, as if it had been used last at a time and with a bound, and return its folder."""
    before = stores(place)
    encoder = load(folder, freeze).eval()
    encoder.keep_frozen(place, 2**24)
    encoder(inputs_of(encoder, [f"the cat {number}" for number in range(64)]))
    close()
    (own,) = stores(place) - before
    (own / "in-use").write_text(str(bound))
    for path in own.iterdir():
        os.utime(path, (used, used))
    return own


def test_stores_that_are_not_open_make_room_the_one_used_longest_ago_first(folder, tmp_path):
    first, second, third = (filled(folder, tmp_path, freeze, used) for freeze, used in ((1, 1000), (2, 3000), (3, 2000)))
    load(folder, 1).keep_frozen(tmp_path, taken(tmp_path))  # opened again: now the third was used longest ago
    close()
    assert stores(tmp_path) == {first, second, third}
    (first / "in-use").write_text("1")  # a small bound again
    load(folder, 4).keep_frozen(tmp_path, taken(first) + taken(second))
    assert len(stores(tmp_path)) == 3
    assert stores(tmp_path) > {first, second}
    load(folder, 2).keep_frozen(tmp_path, taken(second))
    assert second in stores(tmp_path)
    assert first not in stores(tmp_path)


def test_the_largest_bound_is_that_of_all_stores(folder, tmp_path):
    large, small = filled(folder, tmp_path, 1, 1000, bound=2**24), filled(folder, tmp_path, 2, 2000)
    load(folder, 3).keep_frozen(tmp_path, 2**14)
    assert stores(tmp_path) > {large, small}


HOLDER = """
import sys
from pathlib import Path
from mtl.config import EncoderConfig
from mtl.model.encoder import load_encoder
folder, place = sys.argv[1:]
encoder = load_encoder(EncoderConfig(name=folder, max_length=32, freeze=2), Path(folder), attention="sdpa").eval()
encoder.keep_frozen(Path(place), 2**14)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_store_that_another_process_has_open_is_not_removed_and_one_of_a_killed_process_is(folder, tmp_path):
    held = filled(folder, tmp_path, 2, 1000)
    command = [sys.executable, "-c", HOLDER, str(folder), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        load(folder, 1).keep_frozen(tmp_path, 2**14)
        assert held in stores(tmp_path)
        holder.kill()
    close()
    load(folder, 1).keep_frozen(tmp_path, 2**14)
    assert held not in stores(tmp_path)


@pytest.mark.parametrize("freeze", ["none", "embeddings"])
def test_without_frozen_layers_there_is_nothing_to_keep(folder, tmp_path, freeze):
    with pytest.raises(EncoderError, match=r"encoder\.cache .* Set encoder\.freeze"):
        load(folder, freeze).keep_frozen(tmp_path, 2**24)


def test_a_folder_that_cannot_be_used_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EncoderError, match=r"encoder\.cache: .*file.* MTL_CACHE"):
        load(folder).keep_frozen(tmp_path / "file", 2**24)
