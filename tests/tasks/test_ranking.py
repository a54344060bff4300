from __future__ import annotations

import math

import pytest
import torch
from kind_setup import backend, batch_of, fitted, kind_of, loss_of, model_of, part, rows_of  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from torch.testing import assert_close

from mtl.errors import ConfigError, DataError
from mtl.metrics import Outcome
from mtl.model.heads import by_row
from mtl_tasks.ranking import WORD, Ranking, mean_reciprocal_rank, ndcg, recall_at

REPLIES = {
    "text": ["the cat sat", "bob ran", "a dog is bad"],
    "candidates": [["a mat", "good", "not fine"], ["to paris", "from london"], ["very bad", "a mat"]],
    "label": [1, 0, 1],
}
BI, CROSS = {"options": {"encoding": "bi"}}, {"options": {"encoding": "cross"}}
IN_BATCH = {"options": {"encoding": "bi", "negatives": "batch"}}
INF = math.inf
# Rankings of three rows and their right candidates: ranks 1; 3; 2 and 4.
OUTCOME = Outcome([[2], [0], [0, 1]], [[2, 0, 1], [2, 1, 0], [3, 0, 2, 1]])


def test_recall_at_k_is_the_share_of_right_candidates_among_the_first_k():
    assert recall_at(1)(OUTCOME) == pytest.approx((1 + 0 + 0) / 3)
    assert recall_at(2)(OUTCOME) == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert recall_at(5)(OUTCOME) == 1.0


def test_mrr_is_the_mean_of_one_over_the_first_right_rank():
    assert mean_reciprocal_rank(OUTCOME) == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)


def test_ndcg_discounts_by_the_logarithm_of_the_rank():
    # DCG of rank r: 1 / log2(1 + r). Rows: 1 / 1; (1 / log2 4) / 1 = 1/2; (1/log2 3 + 1/log2 5) / (1 + 1/log2 3).
    third = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert ndcg(OUTCOME) == pytest.approx((1 + 0.5 + third) / 3)


def test_scores_of_all_candidates_are_put_into_rows():
    found = by_row(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2]))
    assert_close(found, torch.tensor([[1.0, -INF], [2.0, 3.0]]))


@pytest.mark.parametrize(("options", "requests"), [(BI, 4), (CROSS, 3)])
def test_a_row_has_as_many_sequences_as_it_needs(options, requests, backend):
    kind, features = fitted(Ranking, REPLIES, backend, **options)
    assert features.counts.tolist() == [requests, requests - 1, requests - 1]
    assert len(features.requests[0]) == requests


def test_the_loss_is_the_cross_entropy_of_the_right_candidate(backend):
    kind, features = fitted(Ranking, REPLIES, backend, **CROSS)
    outputs = torch.tensor([[0.0, math.log(2), 0.0], [0.0, 0.0, -INF], [math.log(3), 0.0, -INF]])
    # Probabilities of candidates 1, 0, 1: 2/4, 1/2, 1/4. −log: log 2, log 2, 2 log 2; mean 4/3 log 2.
    assert kind.loss(outputs, part(kind, features).columns).item() == pytest.approx(4 / 3 * math.log(2))


def test_probabilities_of_several_right_candidates_are_added(backend):
    columns = {"text": ["the cat"], "candidates": [["a mat", "good", "bad", "fine"]], "label": [[0, 1]]}
    kind, features = fitted(Ranking, columns, backend, **CROSS)
    loss = kind.loss(torch.zeros(1, 4), part(kind, features).columns)
    assert loss.item() == pytest.approx(math.log(2))  # 1/4 + 1/4


def test_candidates_of_the_batch_are_wrong_unless_they_are_the_same_text(backend):
    kind, features = fitted(Ranking, REPLIES, backend, **IN_BATCH)
    columns = part(kind, features).columns
    # Three own columns, then the batch's seven: mat, good, not fine; paris, london; very bad, mat. All scores are 0.
    outputs = torch.zeros(3, 10)
    outputs[1:, 2] = -INF
    # Row 0: 3 own, of the batch 3 + "a mat" again are its own: 3 more. Row 1: 2 + 5. Row 2: 2, and of the batch not the
    # two "a mat" and "very bad": 4. So 1/6, 1/7, 1/6.
    expected = (math.log(6) + math.log(7) + math.log(6)) / 3
    assert kind.loss(outputs, columns).item() == pytest.approx(expected)


def test_in_training_the_two_encoder_head_scores_the_whole_batch(backend, encoder_folder):
    kind, features = fitted(Ranking, REPLIES, backend, **IN_BATCH)
    model, batch = model_of(kind, encoder_folder), batch_of(kind, features)
    assert model(batch)["t"].shape == (3, 3)
    model.head("t").train()
    scores = model(batch)["t"]
    assert scores.shape == (3, 3 + 7)
    own = scores[:, :3]
    assert_close(own[0], scores[0, 3:6])  # the first row's own are the first of the batch
    assert_close(own[2, :2], scores[2, 8:10])


def test_scores_of_two_encoders_are_scaled_cosines(backend, encoder_folder):
    same = {"text": ["the cat"], "candidates": [["the cat", "bob ran"]], "label": [0]}
    kind, features = fitted(Ranking, same, backend, **BI)
    with torch.no_grad():
        scores = model_of(kind, encoder_folder)(batch_of(kind, features))["t"]
    assert scores[0, 0].item() == pytest.approx(20.0, rel=1e-4)  # the cosine of a text with itself is 1
    assert scores[0, 1] < scores[0, 0]


@pytest.mark.parametrize("options", [BI, CROSS])
def test_the_loss_is_the_mean_over_rows(options, backend, encoder_folder):
    kind, features = fitted(Ranking, REPLIES, backend, **options)
    model = model_of(kind, encoder_folder)
    alone = [loss_of(kind, model, features, [row]) for row in range(3)]
    assert loss_of(kind, model, features) == pytest.approx(sum(alone) / 3, rel=1e-4)


def test_candidates_are_decoded_best_first(backend):
    kind, _ = fitted(Ranking, REPLIES, backend)
    assert kind.decode(torch.tensor([[0.0, 2.0, 1.0], [3.0, 4.0, -INF]]), {}) == [[1, 2, 0], [1, 0]]
    shown = kind.present([1, 2, 0], None, ["the cat sat", "a mat", "good", "not fine"], {})
    assert shown == {"best": "good", "ranking": [1, 2, 0]}


def test_the_words_in_common_are_the_trivial_ranking(backend):
    kind, features = fitted(Ranking, REPLIES, backend)
    # As sklearn's own similarities have it, over the same texts.
    texts = REPLIES["text"] + [text for own in REPLIES["candidates"] for text in own]
    similar = cosine_similarity(TfidfVectorizer(token_pattern=WORD).fit_transform(texts))
    place, expected = len(REPLIES["text"]), []
    for number, candidates in enumerate(REPLIES["candidates"]):
        own = similar[number, place : place + len(candidates)]
        place += len(own)
        expected.append(sorted(range(len(own)), key=lambda candidate: -own[candidate]))
    assert kind.trivial_outcome(features).predicted == expected


def test_a_word_in_common_beats_the_order_of_candidates(backend):
    rows = {"text": ["a cat sat", "!"], "candidates": [["good", "the cat"], ["?", "!"]], "label": [1, 1]}
    kind, features = fitted(Ranking, rows, backend)
    assert kind.primary_metric(kind.trivial_outcome(features)) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": [[]]}, r"row 1: candidates is \[\]; a list of texts is needed"),
        ({"candidates": ["good"]}, r"row 1: candidates is 'good'; a list of texts is needed"),
        ({"candidates": [["good", " "]]}, r"row 1: candidate 1 is ' '; a text is needed"),
        ({"label": [3]}, r"row 1: label 3 is not the number of one of the 3 candidates, which count from 0"),
        ({"label": [-1]}, r"row 1: label -1 is not the number of one of the 3 candidates"),
        ({"label": ["good"]}, r"row 1: label is 'good'; the number of the right candidate is needed"),
        ({"label": [[]]}, r"row 1: label is \[\]; the number of the right candidate is needed"),
    ],
)
def test_a_row_that_cannot_be_ranked_is_named(changes, message, backend):
    columns = {role: [values[0]] for role, values in REPLIES.items()} | changes
    with pytest.raises(DataError, match=f"given.csv, {message}"):
        fitted(Ranking, columns, backend)


def test_one_candidate_a_row_needs_negatives_of_the_batch(backend):
    columns = {"text": ["the cat", "bob"], "candidates": [["good"], ["bad"]], "label": [0, 0]}
    with pytest.raises(DataError, match=r"has one candidate; there is nothing to tell apart.*negatives to batch"):
        fitted(Ranking, columns, backend)
    assert len(fitted(Ranking, columns, backend, **IN_BATCH)[1]) == 2


def test_pairs_that_are_read_together_have_no_negatives_of_the_batch():
    with pytest.raises(ConfigError, match="negatives: batch needs encoding: bi"):
        kind_of(Ranking, options={"encoding": "cross", "negatives": "batch"})
