from __future__ import annotations

import math

import numpy as np
import pytest

from mtl.metrics import CLASSIFICATION, REGRESSION, Metric, Outcome
from mtl_tasks.multilabel import MultiLabel
from mtl_tasks.token_classification import TokenClassification

CLASSES = {metric.name: metric for metric in CLASSIFICATION}
NUMBERS = {metric.name: metric for metric in REGRESSION}
TAGS = {metric.name: metric for metric in TokenClassification.metrics}
SETS = {metric.name: metric for metric in MultiLabel.metrics}

# Three classes. By hand, as TP, FP, FN: a 2, 0, 1 · b 1, 1, 1 · c 1, 1, 0; 4 of 6 are right.
# Precision: 1, 1/2, 1/2. Recall: 2/3, 1/2, 1. F1 = 2TP / (2TP + FP + FN): 4/5, 2/4, 2/3.
THREE = Outcome(gold=list("aaabbc"), predicted=list("aabbcc"), labels=("a", "b", "c"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("macro_precision", (1 + 1 / 2 + 1 / 2) / 3),
        ("macro_recall", (2 / 3 + 1 / 2 + 1) / 3),
        ("macro_f1", (4 / 5 + 1 / 2 + 2 / 3) / 3),
        # Micro: all decisions together, TP 4, FP 2, FN 2.
        ("micro_precision", 4 / 6),
        ("micro_recall", 4 / 6),
        ("micro_f1", 8 / 12),
        # Weighted by the gold counts 3, 2, 1.
        ("weighted_precision", (3 * 1 + 2 / 2 + 1 / 2) / 6),
        ("weighted_recall", (3 * 2 / 3 + 2 / 2 + 1) / 6),
        ("weighted_f1", (3 * 4 / 5 + 2 / 2 + 2 / 3) / 6),
        # Gorodkin 2004, Computational Biology and Chemistry 28:367: (c s − Σ p t) / √((s² − Σ p²)(s² − Σ t²)) with
        # c = 4 right of s = 6, predicted counts p = 2, 2, 2 and gold counts t = 3, 2, 1: (24 − 12) / √(24 · 22).
        ("mcc", 12 / math.sqrt(24 * 22)),
    ],
)
def test_classification_metric_is_that_of_the_arithmetic(name, expected):
    assert CLASSES[name](THREE) == pytest.approx(expected)


def test_mcc_of_two_classes_is_the_phi_coefficient():
    outcome = Outcome(gold=list("yyynn"), predicted=list("yynny"), labels=("n", "y"))
    # Matthews 1975: (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN)), with TP 2, TN 1, FP 1, FN 1.
    assert CLASSES["mcc"](outcome) == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_confusion_matrix_has_gold_in_rows_and_predictions_in_columns():
    assert CLASSES["confusion_matrix"](THREE) == {"labels": ["a", "b", "c"], "counts": [[2, 1, 0], [0, 1, 1], [0, 0, 1]]}


def test_a_class_that_is_never_predicted_has_precision_and_f1_0():
    outcome = Outcome(gold=["a", "b"], predicted=["a", "a"], labels=("a", "b"))
    # a: P 1/2, R 1, F1 2/3. b: 0 throughout.
    assert CLASSES["macro_precision"](outcome) == pytest.approx(1 / 4)
    assert CLASSES["macro_f1"](outcome) == pytest.approx(1 / 3)


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    yes = np.array([0.1, 0.4, 0.35, 0.8])
    outcome = Outcome(list("nnyy"), list("nnyy"), np.stack([1 - yes, yes], 1), ("n", "y"))
    # Pairs (y, n): 0.35 > 0.1 yes, 0.35 > 0.4 no, 0.8 > 0.1 yes, 0.8 > 0.4 yes: 3 of 4. The same for n.
    assert CLASSES["roc_auc"](outcome) == pytest.approx(3 / 4)


def test_roc_auc_counts_a_tie_half_and_leaves_out_labels_that_do_not_occur():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    outcome = Outcome(list("aab"), list("aab"), scores, ("a", "b", "c"))
    # Both pairs of a against b are in order; c has no gold row and no area.
    assert CLASSES["roc_auc"](outcome) == 1.0
    tied = Outcome(list("ab"), list("ab"), np.full((2, 2), 0.5), ("a", "b"))
    assert CLASSES["roc_auc"](tied) == 0.5


def test_roc_auc_is_not_defined_without_scores_or_with_one_class():
    assert math.isnan(CLASSES["roc_auc"](THREE))
    assert math.isnan(CLASSES["roc_auc"](Outcome(["a", "a"], ["a", "a"], np.ones((2, 1)), ("a",))))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Errors 1, 0, 1, 4.
        ("mae", 6 / 4),
        ("rmse", math.sqrt(18 / 4)),
        # Deviations −1.5, −0.5, 0.5, 1.5 and −2, −2, 0, 4: products 3 + 1 + 0 + 6, squares 5 and 24.
        ("pearson", 10 / math.sqrt(5 * 24)),
        # Ranks 1, 2, 3, 4 and 1.5, 1.5, 3, 4; deviations −1, −1, 0.5, 1.5: products 4.5, squares 5 and 4.5.
        ("spearman", 4.5 / math.sqrt(5 * 4.5)),
    ],
)
def test_regression_metric_is_that_of_the_arithmetic(name, expected):
    outcome = Outcome(gold=[1.0, 2.0, 3.0, 4.0], predicted=[2.0, 2.0, 4.0, 8.0])
    assert NUMBERS[name](outcome) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlation_is_not_defined_for_constant_predictions_or_one_row(name):
    assert math.isnan(NUMBERS[name](Outcome([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])))
    assert math.isnan(NUMBERS[name](Outcome([1.0], [1.0])))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 2 spans right of 3 predicted and 4 in gold.
        ("span_precision", 2 / 3),
        ("span_recall", 2 / 4),
        ("span_f1", 2 * 2 / (3 + 4)),
        # Tags right: 3 of 4, 2 of 2, 1 of 2.
        ("tag_accuracy", 6 / 8),
    ],
)
def test_span_metric_counts_whole_spans_of_the_right_type(name, expected):
    # Right: per over two words, and the second loc. Wrong: per where loc is. Missed: the last per.
    gold = [["B-per", "I-per", "O", "B-loc"], ["O", "B-loc"], ["B-per", "O"]]
    predicted = [["B-per", "I-per", "O", "B-per"], ["O", "B-loc"], ["O", "O"]]
    assert TAGS[name](Outcome(gold, predicted)) == pytest.approx(expected)


def test_a_span_found_by_half_is_missed():
    outcome = Outcome([["B-per", "I-per"]], [["B-per", "O"]])
    assert TAGS["span_recall"](outcome) == 0.0
    assert TAGS["span_precision"](outcome) == 0.0


def test_span_f1_is_0_where_nothing_is_predicted():
    assert TAGS["span_f1"](Outcome([["B-per", "O"]], [["O", "O"]])) == 0.0


# Labels a, b, c. Gold {a, b}, {c}, {}; predicted {a}, {b, c}, {}: TP 2, FP 1, FN 1, one row of three all right.
LABEL_SETS = Outcome(np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]]), np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]]))


def test_multilabel_micro_f1_counts_label_decisions():
    assert SETS["micro_f1"](LABEL_SETS) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    # a 1, b 0, c 1.
    assert SETS["macro_f1"](LABEL_SETS) == pytest.approx(2 / 3)


def test_subset_accuracy_counts_rows_with_every_label_right():
    assert SETS["subset_accuracy"](LABEL_SETS) == pytest.approx(1 / 3)


def test_multilabel_roc_auc_is_the_mean_over_labels():
    scores = np.array([[0.9, 0.2], [0.8, 0.6], [0.1, 0.4]])
    gold = np.array([[1, 0], [0, 1], [0, 1]])
    # First label: 0.9 above 0.8 and 0.1, 2 of 2. Second: 0.6 and 0.4 above 0.2, 2 of 2.
    assert SETS["roc_auc"](Outcome(gold, gold, scores, ("a", "b"))) == 1.0
    # Upside down in the first column: 0 of 2; the mean is 1/2.
    scores[:, 0] *= -1
    assert SETS["roc_auc"](Outcome(gold, gold, scores, ("a", "b"))) == 0.5


def test_the_roc_curve_of_each_label_by_hand():
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    found = CLASSES["roc_curve"](Outcome(["a", "a", "b", "b"], ["a", "b", "a", "b"], scores, ("a", "b")))
    # By falling score of "a" the rows are a, b, a, b: up, right, up, right.
    assert found["a"] == [[0.0, 0.0], [0.0, 0.5], [0.5, 0.5], [0.5, 1.0], [1.0, 1.0]]
    assert set(found) == {"a", "b"}
    assert CLASSES["roc_curve"](Outcome(["a"], ["a"], None, ("a", "b"))) is None


@pytest.mark.parametrize("metric", [*CLASSIFICATION, *REGRESSION, *TokenClassification.metrics, *MultiLabel.metrics], ids=str)
def test_errors_shrink_and_all_else_grows(metric):
    if metric.name in ("confusion_matrix", "roc_curve"):
        assert metric.higher_is_better is None
    else:
        is_error = metric.name in ("mae", "rmse")
        assert metric.higher_is_better is not is_error
        assert metric.best == (0.0 if is_error else 1.0)


@pytest.mark.parametrize(
    ("higher", "value", "trivial", "expected"),
    [
        (True, 0.6, 0.6, 0.0),
        (True, 1.0, 0.6, 1.0),
        (True, 0.8, 0.6, 0.5),  # (0.8 − 0.6) / (1 − 0.6)
        (True, 0.4, 0.6, -0.5),
        (False, 2.0, 2.0, 0.0),
        (False, 0.0, 2.0, 1.0),
        (False, 0.5, 2.0, 0.75),  # (0.5 − 2) / (0 − 2)
        (False, 3.0, 2.0, -0.5),
        (True, math.nan, 0.6, 0.0),
        (False, math.nan, 2.0, 0.0),
        (True, 0.4, math.nan, 0.4),  # the correlation of a constant is not defined and counts as 0
        (True, 1.0, 1.0, 1.0),
        (True, 0.9, 1.0, 0.0),
        (False, 0.0, 0.0, 1.0),
        (False, 0.1, 0.0, 0.0),
    ],
)
def test_skill_is_0_for_the_trivial_predictor_and_1_for_a_perfect_one(higher, value, trivial, expected):
    metric = Metric("m", lambda outcome: 0.0, higher_is_better=higher, best=1.0 if higher else 0.0)
    assert metric.skill(value, trivial) == pytest.approx(expected)


def test_roc_auc_of_chance_has_skill_0():
    assert CLASSES["roc_auc"].chance == 0.5
    # (0.9 − 0.5) / (1 − 0.5)
    assert CLASSES["roc_auc"].skill(0.9, 0.5) == pytest.approx(0.8)


def test_a_metric_does_not_let_the_library_warn(recwarn):
    CLASSES["macro_f1"](Outcome(["a", "a"], ["b", "b"], labels=("a", "b")))
    NUMBERS["pearson"](Outcome([1.0, 2.0], [1.0, 1.0]))
    assert not recwarn.list
