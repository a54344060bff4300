"""What comes with the package keeps the contract of mtl."""

import pytest
from mtl_phrasebook.shares import total_variation

from mtl.metrics import Outcome
from mtl.testing import assert_keeps_contract


@pytest.mark.parametrize("name", ["vote-shares", "phrasebook/situation", "phrasebook/tone"])
def test_it_keeps_the_contract(name):
    assert_keeps_contract(name, plugins=["mtl_phrasebook"])


def test_total_variation_is_half_the_absolute_differences():
    # |1 − ½| + |0 − ½| = 1, and 0; halves ½ and 0; mean ¼.
    assert total_variation(Outcome([[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]])) == pytest.approx(0.25)
