"""Thresholds that are chosen on the validation split; the rest is in tests/test_kinds.py."""

from __future__ import annotations

import json

import numpy as np
import torch
from kind_setup import backend, fitted  # noqa: F401

from mtl_tasks.multilabel import MultiLabel

#: Label "a" in six rows of eight, label "b" in two.
TOPICS = {"text": ["the cat"] * 8, "label": [["a", "b"], ["a", "b"], ["a"], ["a"], ["a"], ["a"], [], []]}
SCORES = np.array([[0.9, 0.3, 0.4, 0.35, 0.3, 0.3, 0.2, 0.1], [0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]]).T


def test_each_label_has_the_threshold_with_the_best_f1_and_rare_ones_a_common_one(backend):
    kind, features = fitted(MultiLabel, TOPICS, backend)
    assert kind.calibrates
    kind.calibrate(features, SCORES)
    # a: from 0.3 on all six and nothing else. b has two rows, fewer than five: of both together 0.3 is best too.
    assert kind.state["thresholds"] == [0.3, 0.3]


def test_a_tuned_threshold_is_used_and_goes_through_json(backend):
    kind, features = fitted(MultiLabel, TOPICS, backend)
    outputs = torch.logit(torch.tensor([[0.31, 0.29]]))
    assert kind.decode(outputs, {}) == [[]]
    kind.calibrate(features, SCORES)
    again = MultiLabel(kind.task)
    again.load_state(json.loads(json.dumps(kind.state)))
    assert again.decode(outputs, {}) == kind.decode(outputs, {}) == [["a"]]


def test_a_threshold_that_is_given_is_kept(backend):
    kind, _ = fitted(MultiLabel, TOPICS, backend, options={"threshold": 0.9})
    assert not kind.calibrates
    assert kind.decode(torch.logit(torch.tensor([[0.95, 0.85]])), {}) == [["a"]]
