"""Products of gradients, as all aggregations are given them."""

from __future__ import annotations

import pytest
import torch

from mtl.training.aggregation import gramian_of


@pytest.mark.parametrize("parameters", [1, 5, 12, 17, 18, 40], ids="{} in a block".format)
def test_products_of_gradients_are_the_same_in_blocks_and_what_is_left_over(parameters):
    jacobian = torch.randn(3, 17, dtype=torch.float64)
    torch.testing.assert_close(gramian_of(jacobian, parameters), jacobian @ jacobian.T)
