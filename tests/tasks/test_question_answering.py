from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kind_setup import backend, batch_of, fitted, kind_of, loss_of, model_of, part, rows_of  # noqa: F401

from mtl.errors import DataError
from mtl_tasks.question_answering import QuestionAnswering, SpanHead, normalize, token_f1

CONTEXT = "The cat sat on a mat. Bob flew from London to Paris."
ASKED = {
    "question": ["bob flew to", "the cat sat on", "bob flew from"],
    "context": [CONTEXT, CONTEXT, CONTEXT],
    "answers": [
        [{"text": "Paris", "start": 46}],
        [{"text": "a mat", "start": 15}, {"text": "mat", "start": 17}],
        [{"text": "London", "start": 36}],
    ],
}
SHORT = {"max_length": 14, "options": {"stride": 2}}
NONE = {"options": {"stride": 2, "no_answer": True}}


def certain(columns):
    """Outputs of a head that is sure of the right span."""
    rows, tokens = columns["starts"].shape
    outputs = torch.zeros(rows, 1 + tokens, 2)
    for row, (start, end) in enumerate(columns["span"].tolist()):
        outputs[row, start, 0] = outputs[row, end, 1] = 20.0
    outputs[:, 1:][columns["window"] < 0] = -math.inf
    return outputs


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat.", "cat"),
        ("an apple, a day", "apple day"),
        ("theory", "theory"),
        ("U.S.", "us"),
        ("the", ""),
        ("Café-au-lait", "caféaulait"),
    ],
)
def test_texts_are_compared_as_squad_compares_them(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("the black cat", "a cat", 2 / 3),  # of "black cat" and "cat": precision 1/2, recall 1
        ("cat cat", "cat", 2 / 3),  # the second "cat" has nothing to match
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("the", "", 1.0),
    ],
)
def test_f1_is_that_of_words(answer, gold, f1):
    assert token_f1(answer, gold) == pytest.approx(f1)


@pytest.mark.parametrize("options", [SHORT, {"max_length": 32, "options": {"stride": 2}}])
def test_sure_outputs_are_decoded_to_the_gold_answers(options, backend):
    kind, features = fitted(QuestionAnswering, ASKED, backend, **options)
    columns = part(kind, features).columns
    spans = kind.decode(certain(columns), columns)
    assert [tuple(span) for span in spans] == [(46, 51), (15, 20), (36, 42)]
    outcome = kind.outcome(features, spans, None)
    assert kind.primary_metric(outcome) == kind.all_metrics["exact_match"](outcome) == 1.0


def test_every_token_of_a_long_context_is_read_once(backend):
    whole = fitted(QuestionAnswering, ASKED, backend, options={"stride": 2})[1]
    windows = fitted(QuestionAnswering, ASKED, backend, **SHORT)[1]
    assert whole.counts.tolist() == [1, 1, 1]
    assert min(windows.counts) > 1
    for name in ("starts", "ends"):
        assert windows.columns[name].values.tolist() == whole.columns[name].values.tolist()


def test_a_token_of_two_windows_is_read_where_it_has_most_context(backend):
    columns = {"question": ["cat"], "context": ["the dog sat on a mat"], "answers": [[{"text": "mat", "start": 17}]]}
    # [CLS] cat [SEP] and 4 words a window, 2 shared: "the dog sat on", "sat on a mat". "sat" is third of four in the first
    # (1 word after it) and first in the second (none before it); "on" the other way round.
    _, features = fitted(QuestionAnswering, columns, backend, max_length=8, options={"stride": 2})
    assert features.columns["window"][0].tolist() == [0, 0, 0, 1, 1, 1]
    assert features.columns["place"][0].tolist() == [3, 4, 5, 4, 5, 6]


def test_the_loss_is_a_softmax_over_the_tokens_of_all_windows(backend):
    kind, features = fitted(QuestionAnswering, ASKED, backend, **SHORT)
    columns = part(kind, features).columns
    tokens = columns["starts"].shape[1]
    # Nothing is known: start and end each have one chance in as many as there are tokens.
    assert kind.loss(torch.zeros(3, 1 + tokens, 2), columns).item() == pytest.approx(math.log(tokens), rel=1e-5)


def test_the_head_reads_tokens_in_their_window():
    head = SpanHead(1)
    torch.nn.init.ones_(head.linear.weight)
    states = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]).unsqueeze(-1)
    encoded = type("Encoded", (), {"states": states, "counts": torch.tensor([2, 1])})
    columns = {"window": torch.tensor([[0, 1], [0, -1]]), "place": torch.tensor([[2, 1], [1, -1]])}
    # No answer: the most of the first tokens, max(0, 10) and 20; then token 2 of window 0 and token 1 of window 1.
    expected = [[10.0, 2.0, 11.0], [20.0, 21.0, -math.inf]]
    assert head(encoded, columns)[:, :, 0].tolist() == expected


def test_the_loss_is_the_mean_over_rows(backend, encoder_folder):
    kind, features = fitted(QuestionAnswering, ASKED, backend, **SHORT)
    model = model_of(kind, encoder_folder, max_length=14)
    alone = [loss_of(kind, model, features, [row]) for row in range(3)]
    assert loss_of(kind, model, features) == pytest.approx(sum(alone) / 3, rel=1e-4)


def test_an_answer_has_at_most_so_many_tokens_and_ends_after_it_starts(backend):
    kind, features = fitted(QuestionAnswering, ASKED, backend, options={"stride": 2, "longest": 2})
    columns = part(kind, features, [0]).columns
    outputs = torch.zeros(1, 1 + columns["starts"].shape[1], 2)
    outputs[0, 1, 0], outputs[0, 6, 1] = 5.0, 5.0  # "The" … "mat" has six tokens: one of them must do
    outputs[0, 2, 1] = 4.0  # "The cat"
    assert [tuple(span) for span in kind.decode(outputs, columns)] == [(0, 7)]


def test_a_question_may_have_no_answer(backend):
    columns = {**ASKED, "answers": [[], *ASKED["answers"][1:]]}
    kind, features = fitted(QuestionAnswering, columns, backend, **NONE)
    assert features.columns["span"].tolist()[0] == [0, 0]
    assert kind.gold(features)[0] == [""]
    batch = part(kind, features).columns
    assert tuple(kind.decode(certain(batch), batch)[0]) == (0, 0)


def test_the_sentence_that_shares_most_words_is_trivial(backend):
    kind, features = fitted(QuestionAnswering, ASKED, backend, options={"stride": 2})
    predicted = kind.trivial_outcome(features).predicted
    assert list(predicted) == ["Bob flew from London to Paris.", "The cat sat on a mat.", "Bob flew from London to Paris."]
    # Words without articles: 6, 4 and 6; the answers have 1 ("mat" too) and 1: F1 2/7, 2/5 and 2/7.
    assert kind.primary_metric(kind.trivial_outcome(features)) == pytest.approx(np.mean([2 / 7, 2 / 5, 2 / 7]))


def test_an_answer_is_presented_with_its_characters(backend):
    kind = kind_of(QuestionAnswering)
    assert kind.present([46, 51], None, [("who", CONTEXT)], {}) == {"answer": "Paris", "start": 46, "end": 51}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([[]], "row 1: there is no answer. Set the option no_answer to true"),
        (["Paris"], "row 1: answers is 'Paris'; a list of objects with text and start is needed"),
        ([[{"text": "Paris"}]], r"row 1: answer \{'text': 'Paris'\} is not an object with a text and a whole number as start"),
        ([[{"text": "Paris", "start": 3}]], "row 1: answer 'Paris' is not at character 3. It is at 46"),
        ([[{"text": "Rome", "start": 3}]], "row 1: answer 'Rome' is not at character 3. The context does not have it"),
        ([[{"text": " ", "start": 3}]], "row 1: answer .* is not an object with a text"),
    ],
)
def test_a_row_whose_answer_cannot_be_learned_is_named(answers, message, backend):
    columns = {"question": ["who"], "context": [CONTEXT], "answers": answers}
    with pytest.raises(DataError, match=f"given.csv, {message}"):
        fitted(QuestionAnswering, columns, backend, options={"stride": 2})


def test_an_empty_context_is_named(backend):
    columns = {"question": ["who"], "context": [" "], "answers": [[]]}
    with pytest.raises(DataError, match="no question of given.csv has an answer"):
        fitted(QuestionAnswering, columns, backend, **NONE)
    columns = {role: [*values, *ASKED[role][:1]] for role, values in columns.items()}
    with pytest.raises(DataError, match="row 1: column 'context' is empty"):
        fitted(QuestionAnswering, columns, backend, **NONE)
