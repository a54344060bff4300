from __future__ import annotations

import math

import pytest
import torch
from kind_setup import backend, batch_of, fitted, kind_of, loss_of, model_of, part, rows_of  # noqa: F401
from torch.testing import assert_close

from mtl.errors import DataError
from mtl.metrics import Outcome
from mtl_tasks.ordinal import CumulativeHead, Ordinal, log_probabilities

STARS = {"text": ["the cat", "a dog", "bob sat", "very good"], "label": [1, 3, 10, 3]}


def test_numbers_are_ordered_as_numbers(backend):
    kind, features = fitted(Ordinal, STARS, backend)
    assert kind.labels == ("1", "3", "10")
    assert features.columns["grade"].tolist() == [0, 1, 2, 1]
    assert kind.trivial() == "3"


def test_words_need_an_order(backend):
    words = {"text": ["the cat", "a dog"], "label": ["low", "high"]}
    with pytest.raises(DataError, match=r"are words \(high, low\), whose order is not known. List them from lowest to highest"):
        fitted(Ordinal, words, backend)
    assert fitted(Ordinal, words, backend, labels=("low", "high"))[0].labels == ("low", "high")


def test_probabilities_are_differences_of_logistic_functions():
    # P(grade ≤ 0) = 1/4 and P(grade ≤ 1) = 3/4: 1/4, 1/2, 1/4.
    cumulative = torch.tensor([[-math.log(3), math.log(3)]])
    assert_close(log_probabilities(cumulative).exp(), torch.tensor([[0.25, 0.5, 0.25]]))


def test_the_loss_is_the_negative_log_likelihood_of_a_row(backend):
    kind, features = fitted(Ordinal, STARS, backend)
    outputs = torch.tensor([[-math.log(3), math.log(3)]]).repeat(4, 1)
    # Grades 0, 1, 2, 1: log 4, log 2, log 4, log 2; mean 3/2 log 2.
    assert kind.loss(outputs, part(kind, features).columns).item() == pytest.approx(1.5 * math.log(2))


def test_the_loss_stays_finite_where_a_grade_is_all_but_excluded(backend):
    kind, features = fitted(Ordinal, STARS, backend)
    outputs = torch.tensor([[60.0, 61.0]]).repeat(4, 1).requires_grad_()
    loss = kind.loss(outputs, part(kind, features).columns)
    loss.backward()
    # −log P of grades 0, 1, 2, 1: about 0, 60 − log(1 − 1/e), 61, and that of 1 again.
    assert loss.item() == pytest.approx((61 + 2 * (60 - math.log(1 - math.exp(-1)))) / 4, rel=1e-5)
    assert outputs.grad.isfinite().all()


def test_the_median_grade_is_the_answer(backend):
    kind, _ = fitted(Ordinal, STARS, backend)
    assert kind.decode(torch.tensor([[0.1, 2.0], [-1.0, 0.1], [-2.0, -1.0]]), {}) == ["1", "3", "10"]


def test_metrics_are_in_steps_between_grades(backend):
    kind, features = fitted(Ordinal, STARS, backend)
    outcome = kind.outcome(features, ["1", "10", "1", "3"], None)
    # Steps off: 0, 1, 2, 0. By grade: 0; (1 + 0)/2; 2.
    assert kind.primary_metric(outcome) == pytest.approx(3 / 4)
    assert kind.all_metrics["macro_mae"](outcome) == pytest.approx((0 + 0.5 + 2) / 3)
    assert kind.all_metrics["accuracy"](outcome) == pytest.approx(0.5)
    assert not kind.primary_metric.higher_is_better


def test_quadratic_kappa_is_1_for_right_answers_and_0_for_one_answer(backend):
    kappa = kind_of(Ordinal).all_metrics["quadratic_kappa"]
    assert kappa(Outcome([0, 1, 2], [0, 1, 2])) == pytest.approx(1.0)
    assert kappa(Outcome([0, 1, 2], [1, 1, 1])) == pytest.approx(0.0)


def test_thresholds_grow_whatever_is_learned():
    head = CumulativeHead(4, 5, 1)
    torch.nn.init.normal_(head.steps, mean=-3.0)
    outputs = head.eval()(type("Encoded", (), {"pooled": torch.randn(3, 4)}), {})
    assert outputs.shape == (3, 4)
    assert (outputs.diff(dim=1) > 0).all()


def test_the_loss_is_the_mean_over_rows(backend, encoder_folder):
    kind, features = fitted(Ordinal, STARS, backend)
    model = model_of(kind, encoder_folder)
    alone = [loss_of(kind, model, features, [row]) for row in range(4)]
    assert loss_of(kind, model, features) == pytest.approx(sum(alone) / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["the cat", "a dog"], "label": [1, None]}, "row 2: label is missing"),
        ({"text": ["the cat", "a dog"], "label": [1, 0.5]}, r"row 2: label is 0\.5, which is no label"),
        ({"text": ["the cat", "a dog"], "label": [1, 1]}, "has one grade, '1'; nothing can be learned"),
    ],
)
def test_a_row_without_a_grade_is_named(columns, message, backend):
    with pytest.raises(DataError, match=message):
        fitted(Ordinal, columns, backend)


def test_a_grade_that_is_not_listed_is_named(backend):
    with pytest.raises(DataError, match=r"row 3: label '10' is not among the 3 labels of the task"):
        fitted(Ordinal, STARS, backend, labels=("1", "2", "3"))
