from __future__ import annotations

import torch
from torch.nn.functional import normalize

from mtl_plugins.prototype import Prototype


def predict(support, answers, queries, **options):
    """Answer queries by prototypes of a support; features are brought to length 1 first, as a space does."""
    classes = sorted(set(answers))
    numbers = torch.tensor([classes.index(answer) for answer in answers])
    head = Prototype(**options).fit(normalize(torch.as_tensor(support), dim=-1), numbers, len(classes), None)
    return [classes[number] for number in head(torch.as_tensor(queries)).argmax(-1).tolist()]


def test_a_query_gets_the_class_of_the_nearest_prototype_by_cosine():
    vectors = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]]
    # Prototypes are at 22.5° and 112.5°, so the border is at 67.5°: tan 67.5° = 2.414.
    queries = [[1.0, 2.3], [1.0, 2.5], [5.0, 0.0], [-0.1, 0.1]]
    assert predict(vectors, ["east", "east", "north", "north"], queries) == ["east", "north", "east", "north"]


def test_the_length_of_a_vector_means_nothing():
    vectors = [[1.0, 0.0], [0.0, 100.0], [0.0, 1.0], [-1.0, 0.0]]
    # Of length 1 the support of a is (1, 0), (0, 1) and its prototype at 45°; that of b is at 135°.
    queries = [[0.01, 1.0], [-0.01, 1.0], [30.0, 1.0]]
    assert predict(vectors, ["a", "a", "b", "b"], queries) == ["a", "b", "a"]


def test_one_support_row_a_class_is_its_own_prototype():
    vectors = normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    answers = ["d", "a", "c", "b", "e"]
    assert predict(vectors, answers, vectors) == answers


def test_classes_may_have_different_numbers_of_support_rows():
    vectors = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    # Prototypes (1, 0) and (0, 1): a row more does not draw the border nearer.
    assert predict(vectors, ["a", "a", "a", "b"], [[1.0, 1.1], [1.1, 1.0]]) == ["b", "a"]


def test_by_distance_the_length_of_a_prototype_means_something():
    # The rows of a are far apart, so that their mean (0, 0.1) is short; that of b is (−1, 0). The query (−0.54, 0.84) is
    # at an angle of 33° to a's mean and of 57° to b's. Squared distances: 0.54² + 0.74² = 0.84 and 0.46² + 0.84² = 0.92.
    support = [[0.995, 0.1], [-0.995, 0.1], [-1.0, 0.0]]
    query = [[-0.54, 0.84]]
    assert predict(support, ["a", "a", "b"], query) == predict(support, ["a", "a", "b"], query, metric="euclidean") == ["a"]
    # (−0.7, 0.714): 44° and 46°; squared distances 0.7² + 0.614² = 0.87 and 0.3² + 0.714² = 0.60.
    query = [[-0.7, 0.714]]
    assert predict(support, ["a", "a", "b"], query) == ["a"]
    assert predict(support, ["a", "a", "b"], query, metric="euclidean") == ["b"]
