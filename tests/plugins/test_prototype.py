from __future__ import annotations

import torch

from mtl_plugins.prototype import Prototype


def test_a_query_gets_the_class_of_the_nearest_prototype_by_cosine():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]])
    predict = Prototype().adapt(vectors, ["east", "east", "north", "north"])
    # Prototypes are at 22.5° and 112.5°, so the border is at 67.5°: tan 67.5° = 2.414.
    queries = torch.tensor([[1.0, 2.3], [1.0, 2.5], [5.0, 0.0], [-0.1, 0.1]])
    assert predict(queries) == ["east", "north", "east", "north"]


def test_the_length_of_a_vector_means_nothing():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 100.0], [0.0, 1.0], [-1.0, 0.0]])
    answers = ["a", "a", "b", "b"]
    # Of length 1 the support of a is (1, 0), (0, 1) and its prototype at 45°; that of b is at 135°.
    predict = Prototype().adapt(vectors, answers)
    assert predict(torch.tensor([[0.01, 1.0], [-0.01, 1.0], [30.0, 1.0]])) == ["a", "b", "a"]


def test_one_support_row_a_class_is_its_own_prototype():
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    answers = ["d", "a", "c", "b", "e"]
    assert Prototype().adapt(vectors, answers)(vectors) == answers


def test_classes_may_have_different_numbers_of_support_rows():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    predict = Prototype().adapt(vectors, ["a", "a", "a", "b"])
    # Prototypes (1, 0) and (0, 1): a row more does not draw the border nearer.
    assert predict(torch.tensor([[1.0, 1.1], [1.1, 1.0]])) == ["b", "a"]
