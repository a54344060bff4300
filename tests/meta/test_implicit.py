"""Implicit gradients: conjugate gradients, and iMAML on a quadratic."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mtl.meta.implicit import conjugate_gradient, dot
from mtl.meta.inner import Descent, unroll


def spd(size, seed=0):
    torch.manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64)
    return root @ root.T / size + torch.eye(size, dtype=torch.float64)


def solve(matrix, target, steps, tolerance=1e-24):
    (found,) = conjugate_gradient(lambda vector: [matrix @ vector[0]], [target], steps, tolerance)
    return found


def test_the_inner_product_of_lists_is_the_sum_of_theirs():
    # 1·3 + 2·4 + 5·6
    assert float(dot([torch.tensor([1.0, 2.0]), torch.tensor(5.0)], [torch.tensor([3.0, 4.0]), torch.tensor(6.0)])) == 41


@pytest.mark.parametrize("size", [1, 4, 12])
def test_as_many_products_as_numbers_solve_exactly(size):
    matrix = spd(size)
    target = torch.randn(size, dtype=torch.float64)
    assert_close(solve(matrix, target, size), torch.linalg.solve(matrix, target), rtol=1e-9, atol=1e-9)


def test_a_list_of_tensors_of_different_forms_is_solved_as_one_vector():
    matrix = spd(7)
    target = torch.randn(7, dtype=torch.float64)

    def product(vector):
        turned = matrix @ torch.cat([part.flatten() for part in vector])
        return [turned[:6].view(2, 3), turned[6]]

    found = conjugate_gradient(product, [target[:6].view(2, 3), target[6]], 7, 1e-24)
    assert [part.shape for part in found] == [(2, 3), ()]
    assert_close(torch.cat([part.flatten() for part in found]), torch.linalg.solve(matrix, target), rtol=1e-9, atol=1e-9)


def test_one_product_gives_the_longest_descent_along_the_target():
    # x = (b·b / b·Ab) b
    matrix, b = spd(3), torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    assert_close(solve(matrix, b, 1), (b @ b) / (b @ matrix @ b) * b)


def test_a_solved_system_asks_for_no_more_products():
    calls = []

    def product(vector):
        calls.append(1)
        return [2 * vector[0]]

    (found,) = conjugate_gradient(product, [torch.tensor([4.0, 6.0])], 10)
    assert found.tolist() == [2.0, 3.0]
    assert len(calls) == 1


def test_a_target_of_zeros_is_answered_by_zeros():
    assert solve(spd(3), torch.zeros(3, dtype=torch.float64), 5).tolist() == [0, 0, 0]


def test_a_direction_of_negative_curvature_ends_the_search_with_what_was_found():
    # The first direction (1, ½) has the curvature 1 − ¼ = ¾; the second, across it, is negative.
    matrix, b = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)), torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert_close(solve(matrix, b, 10), solve(matrix, b, 1))
    assert bool(solve(matrix, b, 10).isfinite().all())


@pytest.mark.parametrize("pull", [0.5, 2.0])
def test_the_implicit_gradient_of_a_quadratic_is_the_closed_form_and_that_of_a_long_inner_loop(pull):
    matrix, c, d = spd(4), torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    start = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def loss(adapted, shared):
        """½ (θ − c)ᵀ A (θ − c) + λ/2 ‖θ − θ_0‖²."""
        theta = adapted["theta"]
        return (theta - c) @ matrix @ (theta - c) / 2 + pull / 2 * (theta - shared["start"]).pow(2).sum()

    *_, end = unroll(loss, {"theta": start}, lambda _: {"start": start}, Descent(0.1), 300, "recompute")
    end = end["theta"]
    # θ* = (A + λI)⁻¹ (Ac + λθ_0); with L = ½‖θ* − d‖², dL/dθ_0 = (I + A/λ)⁻¹ (θ* − d).
    best = torch.linalg.solve(matrix + pull * eye, matrix @ c + pull * start.detach())
    assert_close(end.detach(), best, rtol=1e-9, atol=1e-9)
    expected = torch.linalg.solve(eye + matrix / pull, best - d)
    found = solve(eye + matrix / pull, end.detach() - d, 4)
    assert_close(found, expected, rtol=1e-8, atol=1e-8)
    ((end - d).pow(2).sum() / 2).backward()
    assert_close(start.grad, expected, rtol=1e-8, atol=1e-8)
