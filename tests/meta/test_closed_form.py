"""Heads in closed form, by hand or by another way to the same end."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize
from torch.testing import assert_close

from mtl.meta.closed_form import (
    Names,
    as_targets,
    known,
    matching,
    nearest_by_cosine,
    nearest_by_distance,
    prototypes,
    ridge,
)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


FEATURES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
ANSWERS = torch.tensor([0, 1, 1])


def test_prototypes_are_means_of_classes():
    # (0 + 0.6)/2 and (1 + 0.8)/2
    assert_close(prototypes(FEATURES, ANSWERS, 2), torch.tensor([[1.0, 0.0], [0.3, 0.9]]))


def test_a_class_without_rows_has_zeros_and_no_nan():
    assert prototypes(FEATURES, ANSWERS, 3)[2].tolist() == [0, 0]


def test_a_name_counts_as_so_many_rows():
    names = Names(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), 2.0)
    found = prototypes(FEATURES, ANSWERS, 3, names)
    # (1 + 2·0)/3, (0 + 2·1)/3; (0.6 + 2·1)/4, (1.8 + 2·0)/4; the name alone.
    assert_close(found, torch.tensor([[1 / 3, 2 / 3], [0.65, 0.45], [0.0, 1.0]]))


def test_the_layer_of_cosines_gives_cosines():
    means, x = random(3, 5), normalize(random(4, 5, seed=1), dim=-1)
    assert_close(nearest_by_cosine(means, 7.0)(x), 7 * cosine_similarity(x[:, None], means[None], dim=-1))


def test_the_layer_of_distances_gives_squared_distances_but_for_what_classes_share():
    means, x = random(3, 5), random(4, 5, seed=1)
    found = nearest_by_distance(means, 7.0)(x)
    assert_close(found - 7 * x.pow(2).sum(-1, keepdim=True), -7 * torch.cdist(x, means).pow(2))


@pytest.mark.parametrize("layer", [nearest_by_cosine, nearest_by_distance])
def test_a_class_that_nothing_stands_for_is_never_nearest(layer):
    x = normalize(random(200, 5, seed=1), dim=-1)
    means = torch.stack([normalize(random(5, seed=2), dim=-1) / 2, torch.zeros(5, dtype=torch.float64)])
    found = layer(means, 7.0)(x)
    assert (found[:, 0] > found[:, 1]).all()  # also for the half of texts whose cosine is negative
    assert (x @ means[0]).lt(0).sum() > 50


@pytest.mark.parametrize("rows", [3, 5, 6, 20])
def test_ridge_minimises_errors_and_penalty_with_few_rows_and_with_many(rows):
    x, y = random(rows, 5), random(rows, 2, seed=1)
    # As least squares with the penalty's roots as rows: ‖Xw + b − Y‖² + λ(‖w‖² + b²).
    wide = torch.cat([x, torch.ones(rows, 1, dtype=torch.float64)], dim=1)
    stacked = torch.cat([wide, math.sqrt(0.3) * torch.eye(6, dtype=torch.float64)])
    solution = torch.linalg.lstsq(stacked, torch.cat([y, torch.zeros(6, 2, dtype=torch.float64)])).solution
    found = ridge(x, y, 0.3)
    assert_close(found.weight, solution[:-1].T, rtol=1e-10, atol=1e-10)
    assert_close(found.bias, solution[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [3, 9])
def test_ridge_is_differentiable_by_features_and_penalty(rows):
    x, penalty = random(rows, 4).requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y, queries = random(rows, 2, seed=1), random(3, 4, seed=2)
    assert torch.autograd.gradcheck(lambda x, penalty: ridge(x, y, penalty)(queries), (x, penalty))


def test_ridge_fits_plus_and_minus_one_for_classes_and_values_as_they_are():
    assert as_targets(torch.tensor([1, 0]), 3, torch.float32).tolist() == [[-1, 1, -1], [1, -1, -1]]
    assert as_targets(torch.tensor([0.5, 2.0]), 1, torch.float64).tolist() == [[0.5], [2.0]]


def test_matching_sums_attention_by_class():
    found = matching(FEATURES, ANSWERS, 2, torch.tensor([[1.0, 0.0]]), 2.0)
    # Cosines 1, 0 and 0.6: softmax of 2, 0 and 1.2.
    weights = [math.exp(2), math.exp(0), math.exp(1.2)]
    expected = [math.log(weights[0] / sum(weights)), math.log((weights[1] + weights[2]) / sum(weights))]
    assert_close(found, torch.tensor([expected]))


def test_matching_gives_the_mean_of_values_by_attention():
    found = matching(FEATURES, torch.tensor([1.0, 2.0, 4.0]), 1, torch.tensor([[0.0, 1.0]]), 0.0)
    assert_close(found, torch.tensor([[7 / 3]]))  # a scale of 0 looks at all alike


def test_matching_is_finite_for_a_class_without_rows():
    found = matching(FEATURES, ANSWERS, 3, FEATURES, 10.0)
    assert bool(found.isfinite().all())
    assert bool((found[:, 2] < -20).all())


def test_units_without_an_answer_are_left_out():
    features, answers = known(FEATURES, torch.tensor([1, -100, 0]))
    assert answers.tolist() == [1, 0]
    assert_close(features, FEATURES[[0, 2]])
    assert known(FEATURES, torch.tensor([-1.0, 0.0, 1.0]))[1].tolist() == [-1, 0, 1]  # values may be negative
