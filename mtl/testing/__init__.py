"""The contract that plugins keep, as checks that anyone can run: from pytest, or by ``mtl check``.

from mtl.testing import assert_keeps_contract

def test_the_kind_keeps_its_contract():
assert_keeps_contract("count", plugins=["counts.py"])
"""

from mtl.testing.contract import Line, assert_keeps_contract, check
from mtl.testing.encoder import tiny_encoder

__all__ = ["Line", "assert_keeps_contract", "check", "tiny_encoder"]
