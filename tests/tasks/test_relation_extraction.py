from __future__ import annotations

import pytest
import torch
from kind_setup import backend, batch_of, fitted, kind_of, model_of, part, rows_of  # noqa: F401
from torch.testing import assert_close

from mtl.data.features import featurize
from mtl.data.tokenizer import Tokenizer
from mtl.errors import DataError
from mtl.metrics import Outcome
from mtl_tasks.relation_extraction import RelationExtraction, count_relations, macro_f1, relation_type

RELATIONS = {
    "tokens": [["the", "cat", "sat", "on", "a", "mat"], ["bob", "ran", "to", "new", "london"], ["a", "dog", "is", "bad"]],
    "head": [[1, 2], [3, 5], [0, 2]],
    "tail": [[4, 6], [0, 1], [3, 4]],
    "label": ["On(e1,e2)", "To(e2,e1)", "Other"],
}


def test_head_and_tail_are_marked_in_either_order():
    kind = kind_of(RelationExtraction)
    assert kind.requests(rows_of(RELATIONS))[:2] == [
        ["the", "@", "cat", "@", "sat", "on", "#", "a", "mat", "#"],
        ["#", "bob", "#", "ran", "to", "@", "new", "london", "@"],
    ]


def test_spans_of_a_text_count_characters():
    columns = {"text": ["bob ran to new london."], "head": [[11, 21]], "tail": [[0, 3]], "label": ["To(e2,e1)"]}
    assert kind_of(RelationExtraction).requests(rows_of(columns)) == [
        ["#", "bob", "#", "ran", "to", "@", "new", "london", "@", "."]
    ]


def test_signs_of_the_text_are_not_taken_for_markers(backend):
    columns = {**RELATIONS, "tokens": [["@", "cat", "#", "on", "a", "mat"], *RELATIONS["tokens"][1:]]}
    kind, _ = fitted(RelationExtraction, columns, backend)
    request = kind.requests(rows_of(columns))[0]
    assert [request.count(mark) for mark in "@#"] == [2, 2]


def test_the_head_reads_the_markers_that_open_head_and_tail(backend):
    kind, features = fitted(RelationExtraction, RELATIONS, backend)
    # [CLS] the @ cat @ sat on # a mat # [SEP]; [CLS] # b ...: "bob" is a word of the vocabulary, "new" is not.
    assert features.columns["markers"].tolist()[:2] == [[2, 7], [6, 1]]
    batch = batch_of(kind, features)
    states = torch.arange(3 * batch.inputs["input_ids"].shape[1], dtype=torch.float).view(3, -1, 1)
    head = kind.head(1)
    found = head.features(type("Encoded", (), {"states": states}), batch.parts["t"].columns)
    assert_close(found[0], torch.tensor([2.0, 7.0]))


def test_a_relation_in_the_wrong_direction_is_wrong_and_counts_for_its_type():
    gold = ["A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "", "A(e1,e2)"]
    answers = ["A(e1,e2)", "A(e1,e2)", "", "B(e1,e2)", "B(e1,e2)"]
    outcome = Outcome(gold, answers, None, ("A(e1,e2)", "A(e2,e1)", "B(e1,e2)", ""))
    # A: found twice, once rightly, there three times. B: found twice, never rightly, there once.
    assert count_relations(outcome) == {"A": (1, 2, 3), "B": (0, 2, 1)}
    # F1 of A: 2 · 1 / (2 + 3) = 0.4; of B: 0; mean 0.2.
    assert macro_f1(outcome) == pytest.approx(0.2)


def test_the_label_for_no_relation_does_not_count(backend):
    kind, features = fitted(RelationExtraction, RELATIONS, backend)
    outcome = kind.outcome(features, ["On(e1,e2)", "To(e2,e1)", "To(e2,e1)"], None)
    # On: 1 of 1, F1 1. To: found twice, once rightly, there once: F1 2 · 1 / (2 + 1) = 2/3. Mean 5/6.
    assert kind.primary_metric(outcome) == pytest.approx(5 / 6)
    assert kind.all_metrics["relation_precision"](outcome) == pytest.approx(2 / 3)
    assert kind.all_metrics["relation_recall"](outcome) == pytest.approx(1.0)
    assert kind.all_metrics["accuracy"](outcome) == pytest.approx(2 / 3)


def test_a_relation_without_a_direction_is_its_own_type():
    assert relation_type("per:title") == "per:title"
    assert relation_type("Cause-Effect(e2,e1)") == "Cause-Effect"


def test_sure_outputs_are_decoded_to_the_gold_answers(backend):
    kind, features = fitted(RelationExtraction, RELATIONS, backend)
    columns = part(kind, features).columns
    outputs = 20 * torch.nn.functional.one_hot(columns["label"], 3).float()
    assert kind.decode(outputs, columns) == kind.gold(features) == RELATIONS["label"]


def test_the_gradient_reaches_head_and_encoder(backend, encoder_folder):
    kind, features = fitted(RelationExtraction, RELATIONS, backend)
    model, batch = model_of(kind, encoder_folder), batch_of(kind, features)
    model.loss("t", model(batch)["t"], batch).backward()
    assert float(model.head("t").linear.weight.grad.abs().sum()) > 0
    assert float(model.encoder.backbone.get_input_embeddings().weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ["the cat"]}, r"row 1: tokens is 'the cat'; a list of words is needed"),
        ({"head": [[1]]}, r"row 1: head is \[1\]; it must be two whole numbers"),
        ({"head": [None]}, r"row 1: head is None; it must be two whole numbers"),
        ({"tail": [[4, 9]]}, r"row 1: tail \[4, 9\] is outside the 6 words of the row, or empty"),
        ({"tail": [[4, 4]]}, r"row 1: tail \[4, 4\] is outside the 6 words of the row, or empty"),
        ({"tail": [[0, 2]]}, r"row 1: head \[1, 2\] and tail \[0, 2\] overlap"),
    ],
)
def test_a_row_that_cannot_be_marked_is_named(changes, message):
    columns = {role: [values[0]] for role, values in RELATIONS.items()} | changes
    with pytest.raises(DataError, match=f"given.csv, {message}"):
        kind_of(RelationExtraction).requests(rows_of(columns))


def test_an_entity_that_is_cut_off_is_named(backend):
    kind = kind_of(RelationExtraction, backend)
    kind.fit(rows_of(RELATIONS))
    with pytest.raises(DataError, match=r"given.csv, row 1: an entity lies beyond encoder.max_length. Raise it"):
        featurize(kind, rows_of(RELATIONS), Tokenizer(backend, 7))
