from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Tokenizer
from mtl.errors import ConfigError, DataError
from mtl.metrics import Metric
from mtl.model.heads import PooledHead, WordHead
from mtl.task import Task
from mtl_tasks.classification import Classification
from mtl_tasks.multilabel import MultiLabel
from mtl_tasks.pair_classification import PairClassification
from mtl_tasks.regression import Regression
from mtl_tasks.token_classification import TokenClassification

MOODS = {"text": ["the cat sat", "a dog ran", "bob sat"], "label": ["good", "bad", "good"]}
TOPICS = {"text": ["the cat sat", "a dog ran", "bob sat"], "label": [["pets", "rest"], ["pets"], []]}
RATINGS = {"text": ["the cat sat", "a dog ran"], "label": [2.0, 6.0]}
PAIRS = {"text": ["the cat sat", "a dog ran"], "text_pair": ["a cat sat", "bob is good"], "label": ["same", "other"]}
FLIGHTS = {
    "tokens": [["anna", "flew", "to", "berlin", "5"], ["bob", "sat"]],
    "tags": [["B-person", "O", "O", "B-place", "O"], ["B-person", "O"]],
}
PLACES = {
    "text": ["Anna flew to New London, bob!", "the cat sat"],
    "spans": [[{"start": 13, "end": 23, "type": "place"}, {"start": 0, "end": 4, "type": "person"}], []],
}
CASES = {
    "classification": (Classification, MOODS, {}),
    "multilabel": (MultiLabel, TOPICS, {}),
    "regression": (Regression, RATINGS, {}),
    "pair-cross": (PairClassification, PAIRS, {}),
    "pair-bi": (PairClassification, PAIRS, {"options": {"pairing": "bi"}}),
    "tokens": (TokenClassification, FLIGHTS, {}),
    "spans": (TokenClassification, PLACES, {}),
}


@pytest.fixture(scope="module")
def backend(encoder_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)


def rows_of(columns):
    return Rows(columns, "given.csv", range(1, len(next(iter(columns.values()))) + 1))


def kind_of(cls, **task):
    return cls(Task(**{"name": "t", "kind": "k", "data": []} | task))


def fitted(cls, columns, backend, *, max_length=32, **task):
    """A fitted kind and the features of the rows it was fitted on."""
    kind, rows = kind_of(cls, **task), rows_of(columns)
    kind.fit(rows)
    return kind, featurize(kind, rows, Tokenizer(backend, max_length))


def part(kind, features, ids=None):
    ids = range(len(features)) if ids is None else ids
    return collate({"t": ids}, {"t": features}, {"t": kind}).parts["t"]


def certain(kind, columns):
    """Outputs of a head that is sure of the right answers."""
    if "tags" in columns:
        return 20 * torch.nn.functional.one_hot(columns["tags"].clamp(min=0), len(kind.labels)).float()
    if "labels" in columns:
        return 40 * columns["labels"] - 20
    if "value" in columns:
        return columns["label"].unsqueeze(-1)
    return 20 * torch.nn.functional.one_hot(columns["label"], len(kind.labels)).float()


@pytest.fixture(params=CASES)
def case(request, backend):
    cls, columns, task = CASES[request.param]
    return fitted(cls, columns, backend, **task)


def random_outputs(kind, columns):
    return torch.randn(certain(kind, columns).shape, generator=torch.Generator().manual_seed(0))


def test_the_loss_of_a_batch_said_twice_is_the_same(case):
    kind, features = case
    ids = list(range(len(features)))
    once, twice = part(kind, features, ids), part(kind, features, ids * 2)
    outputs = random_outputs(kind, once.columns)
    assert_close(kind.loss(outputs, once.columns), kind.loss(torch.cat([outputs, outputs]), twice.columns))
    assert twice.units == 2 * once.units


def test_the_loss_is_the_mean_over_units(case):
    kind, features = case
    whole = part(kind, features)
    outputs = random_outputs(kind, whole.columns)
    total = 0.0
    for row in range(len(features)):
        alone = part(kind, features, [row])
        own = outputs[row : row + 1]
        own = own[:, : alone.columns["tags"].shape[1]] if "tags" in alone.columns else own
        total += kind.loss(own, alone.columns).item() * alone.units
    assert kind.loss(outputs, whole.columns).item() == pytest.approx(total / whole.units, rel=1e-5)


def test_decoding_sure_outputs_gives_the_gold_answers(case):
    kind, features = case
    columns = part(kind, features).columns
    answers = kind.decode(certain(kind, columns), columns)
    assert answers == kind.gold(features)
    assert kind.primary_metric(kind.outcome(features, answers, None)) == pytest.approx(1.0)


def test_the_state_of_a_kind_goes_through_json(case):
    kind, features = case
    again = type(kind)(kind.task)
    again.load_state(json.loads(json.dumps(kind.state)))
    columns = part(kind, features).columns
    outputs = random_outputs(kind, columns)
    assert again.decode(outputs, columns) == kind.decode(outputs, columns)
    assert again.trivial() == kind.trivial()
    assert again.labels == kind.labels


def test_the_head_gives_what_loss_and_decode_take(case):
    kind, features = case
    batch = collate({"t": range(len(features))}, {"t": features}, {"t": kind})
    sequences = batch.inputs["input_ids"].shape
    states = torch.randn(*sequences, 8, generator=torch.Generator().manual_seed(0))
    index = batch.parts["t"].index
    states = states if index is None else states[index]
    columns = batch.parts["t"].columns
    outputs = kind.head(8)(SimpleNamespace(states=states, pooled=states.mean(1)), columns)
    assert kind.loss(outputs, columns).shape == ()
    assert len(kind.decode(outputs, columns)) == len(features)


# Classification


def test_classification_loss_is_the_cross_entropy_of_a_row(backend):
    kind, features = fitted(Classification, MOODS, backend)
    assert kind.labels == ("bad", "good")
    outputs = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(7), 0.0]])
    # Probabilities of good, bad, good: 1/2, 1/4, 1/8. −log: log 2, 2 log 2, 3 log 2; mean 2 log 2.
    assert kind.loss(outputs, part(kind, features).columns).item() == pytest.approx(2 * math.log(2))


def test_classification_scores_are_probabilities(backend):
    kind, _ = fitted(Classification, MOODS, backend)
    assert_close(kind.scores(torch.tensor([[0.0, math.log(3)]])), torch.tensor([[0.25, 0.75]]))


def test_classification_answers_the_majority_class_trivially(backend):
    assert fitted(Classification, MOODS, backend)[0].trivial() == "good"
    even = {"text": ["the", "a", "cat", "dog"], "label": ["y", "x", "x", "y"]}
    assert fitted(Classification, even, backend)[0].trivial() == "x"  # of equals the first by name


def test_declared_labels_keep_their_order_and_may_be_absent_from_train(backend):
    kind, features = fitted(Classification, MOODS, backend, labels=("good", "so-so", "bad"))
    assert kind.labels == ("good", "so-so", "bad")
    assert features.columns["label"].tolist() == [0, 2, 0]


@pytest.mark.parametrize(("value", "label"), [(1, "1"), (2.0, "2"), (True, "True"), ("b", "b")])
def test_whole_numbers_and_booleans_are_label_names(value, label):
    kind = kind_of(Classification)
    kind.fit(rows_of({"text": ["the", "a"], "label": [value, "other"]}))
    assert label in kind.labels


@pytest.mark.parametrize("missing", [None, "", math.nan])
def test_a_missing_label_is_named_with_file_and_row(missing):
    with pytest.raises(DataError, match=r"given\.csv, row 2: label is missing"):
        kind_of(Classification).fit(rows_of({"text": ["the", "a"], "label": ["x", missing]}))


def test_half_a_number_is_not_a_label():
    with pytest.raises(DataError, match=r"row 1: label is 0\.5, which is no label"):
        kind_of(Classification).fit(rows_of({"text": ["the"], "label": [0.5]}))


def test_a_label_that_train_lacks_is_refused_with_the_nearest(backend):
    kind, _ = fitted(Classification, MOODS, backend)
    rows = rows_of({"text": ["the"], "label": ["god"]})
    with pytest.raises(DataError, match=r"row 1: label 'god' is not among the 2 labels .*Did you mean 'good'\?"):
        featurize(kind, rows, Tokenizer(backend, 16))


def test_one_label_is_nothing_to_tell_apart():
    with pytest.raises(DataError, match="has the one label 'x'; there is nothing to tell apart"):
        kind_of(Classification).fit(rows_of({"text": ["the", "a"], "label": ["x", "x"]}))


def test_classification_presents_the_label_with_its_probability(backend):
    kind, _ = fitted(Classification, MOODS, backend)
    assert kind.present("good", torch.tensor([0.25, 0.75]).numpy(), "the", {}) == {"label": "good", "score": 0.75}


# Multi-label


def test_multilabel_loss_is_the_logistic_loss_of_a_label(backend):
    kind, features = fitted(MultiLabel, TOPICS, backend)
    assert kind.labels == ("pets", "rest")
    outputs = torch.full((3, 2), math.log(3))
    # Every probability is 3/4: log(4/3) for the 3 labels that are there, log 4 for the 3 that are not.
    expected = (3 * math.log(4 / 3) + 3 * math.log(4)) / 6
    assert kind.loss(outputs, part(kind, features).columns).item() == pytest.approx(expected)


def test_multilabel_trivially_answers_the_labels_of_at_least_half_the_rows(backend):
    assert fitted(MultiLabel, TOPICS, backend)[0].trivial() == ["pets"]  # 2 of 3, and 1 of 3


def test_multilabel_gives_a_label_from_the_threshold_on(backend):
    kind, _ = fitted(MultiLabel, TOPICS, backend, options={"threshold": 0.7})
    # Logits log 3 and log 2 are probabilities 3/4 and 2/3.
    assert kind.decode(torch.tensor([[math.log(3), math.log(2)]]), {}) == [["pets"]]


def test_multilabel_splits_a_text_of_labels_at_the_separator(backend):
    columns = {"text": ["the", "a"], "label": ["pets| rest", "rest"]}
    kind, features = fitted(MultiLabel, columns, backend, options={"separator": "|"})
    assert features.columns["labels"].tolist() == [[1, 1], [0, 1]]
    assert kind.gold(features) == [["pets", "rest"], ["rest"]]


def test_multilabel_refuses_what_is_not_a_list_of_names():
    with pytest.raises(DataError, match=r"row 2: label is 3; a list of label names or a text is needed"):
        kind_of(MultiLabel).fit(rows_of({"text": ["the", "a"], "label": [["x"], 3]}))


# Regression


def test_regression_loss_is_the_squared_error_in_standard_deviations(backend):
    kind, features = fitted(Regression, RATINGS, backend)
    # 2 and 6: mean 4, standard deviation 2, so −1 and 1. Errors 1.5 and 1: (2.25 + 1) / 2.
    columns = part(kind, features).columns
    assert columns["label"].tolist() == [-1.0, 1.0]
    assert kind.loss(torch.tensor([[0.5], [0.0]]), columns).item() == pytest.approx(1.625)


def test_regression_answers_on_the_scale_of_the_targets(backend):
    kind, features = fitted(Regression, RATINGS, backend)
    assert kind.decode(torch.tensor([[0.5], [-3.0]]), {}) == [5.0, -2.0]  # 4 + 2 · 0.5 and 4 − 2 · 3
    assert kind.trivial() == 4.0
    assert kind.gold(features) == [2.0, 6.0]


def test_regression_stays_within_its_bounds(backend):
    kind, _ = fitted(Regression, RATINGS, backend, options={"low": 0, "high": 5})
    assert kind.decode(torch.tensor([[-3.0], [0.25], [9.0]]), {}) == [0.0, 4.5, 5.0]


def test_validation_targets_are_scaled_by_train(backend):
    kind, _ = fitted(Regression, RATINGS, backend)
    other = featurize(kind, rows_of({"text": ["the"], "label": [10]}), Tokenizer(backend, 16))
    assert other.columns["label"].tolist() == [3.0]  # (10 − 4) / 2


def test_the_trivial_regression_has_rmse_of_one_standard_deviation(backend):
    kind, features = fitted(Regression, RATINGS, backend)
    assert kind.all_metrics["rmse"](kind.trivial_outcome(features)) == 2.0


def test_regression_reads_pairs_where_the_task_maps_them(backend):
    columns = RATINGS | {"text_pair": ["a cat sat", "bob is good"]}
    alone = kind_of(Regression)
    assert alone.requests(rows_of(columns)) == RATINGS["text"]
    cross = kind_of(Regression, columns={"text_pair": "text_pair"})
    assert cross.requests(rows_of(columns)) == [("the cat sat", "a cat sat"), ("a dog ran", "bob is good")]
    assert cross.sequences == 1
    bi = kind_of(Regression, columns={"text_pair": "text_pair"}, options={"pairing": "bi"})
    assert bi.requests(rows_of(columns)) == ["the cat sat", "a cat sat", "a dog ran", "bob is good"]
    assert bi.sequences == 2
    assert alone.readable({"text"})
    assert not cross.readable({"text"})
    with pytest.raises(ConfigError, match=r"'t': options\.pairing is of pairs, .* Add columns: \{text_pair: COLUMN\}"):
        kind_of(Regression, options={"pairing": "bi"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("4", r"row 2: label is '4' \(str\); regression needs a number"),
        (None, "row 2: label is missing; regression needs a number"),
        (True, r"row 2: label is True \(bool\); regression needs a number"),
        (math.inf, "row 2: label is inf; regression needs a finite number"),
    ],
)
def test_a_target_that_is_not_a_number_is_refused(value, message):
    with pytest.raises(DataError, match=message):
        kind_of(Regression).fit(rows_of({"text": ["the", "a"], "label": [1.0, value]}))


def test_targets_that_are_all_alike_are_refused():
    with pytest.raises(DataError, match=r"every target of given\.csv is 3\.0; there is nothing to learn"):
        kind_of(Regression).fit(rows_of({"text": ["the", "a"], "label": [3, 3]}))


# Pairs


def test_a_cross_pair_is_one_sequence_of_two_segments(backend):
    kind, features = fitted(PairClassification, PAIRS, backend)
    assert (kind.sequences, len(features.tokenized), len(features)) == (1, 2, 2)
    tokens, segments = features.tokenized[0]
    assert backend.convert_ids_to_tokens(tokens) == ["[CLS]", "the", "cat", "sat", "[SEP]", "a", "cat", "sat", "[SEP]"]
    assert segments.tolist() == [0] * 5 + [1] * 4


def test_a_bi_pair_is_two_sequences(backend):
    kind, features = fitted(PairClassification, PAIRS, backend, options={"pairing": "bi"})
    assert (kind.sequences, len(features.tokenized), len(features)) == (2, 4, 2)
    shown = [" ".join(backend.convert_ids_to_tokens(features.tokenized[index][0])) for index in range(2)]
    assert shown == ["[CLS] the cat sat [SEP]", "[CLS] a cat sat [SEP]"]


def test_a_bi_pair_is_read_as_both_vectors_their_difference_product_and_cosine():
    head = PooledHead(2, 9, sequences=2).eval()
    head.linear.weight.data = torch.eye(9)
    # u = (3, 4) and v = (4, 3): the cosine is (12 + 12) / (5 · 5). Then u = (1, 0) and v = (0, 2), at right angles.
    encoded = SimpleNamespace(pooled=torch.tensor([[3.0, 4.0], [4.0, 3.0], [1.0, 0.0], [0.0, 2.0]]))
    expected = [[3.0, 4, 4, 3, 1, 1, 12, 12, 24 / 25], [1.0, 0, 0, 2, 1, 2, 0, 0, 0]]
    assert_close(head(encoded, {}), torch.tensor(expected))


def test_of_a_bi_pair_s_features_of_length_1_the_vectors_themselves_are_halved():
    head = PooledHead(2, 9, sequences=2)
    encoded = SimpleNamespace(pooled=torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
    plain = torch.tensor([[0.3, 0.4, 0.4, 0.3, 0.2, 0.2, 0.48, 0.48, 0.96]])  # u / 2, v / 2, then what lies between
    assert_close(head.features(encoded, {}, unit=True), plain / plain.norm())


# Token classification


def test_tags_are_numbered_per_type(backend):
    kind, features = fitted(TokenClassification, FLIGHTS, backend)
    assert kind.labels == ("O", "B-person", "I-person", "B-place", "I-place")
    assert features.columns["tags"].padded([0, 1]).tolist() == [[1, 0, 0, 3, 0], [1, 0, -100, -100, -100]]


def test_a_word_is_read_at_its_first_sub_word(backend):
    kind, features = fitted(TokenClassification, FLIGHTS, backend)
    tokens = backend.convert_ids_to_tokens(features.tokenized[0][0])
    assert tokens == ["[CLS]", "anna", "flew", "to", "b", "##e", "##r", "##l", "##i", "##n", "5", "[SEP]"]
    head = WordHead(1, 1).eval()
    torch.nn.init.ones_(head.linear.weight)
    # A state that says its position: the head gives the position it reads.
    states = torch.arange(12.0).reshape(1, 12, 1)
    outputs = head(SimpleNamespace(states=states), part(kind, features, [0]).columns)
    assert outputs.flatten().tolist() == [1, 2, 3, 4, 10]


def test_token_loss_is_the_mean_over_words_not_rows(backend):
    kind, features = fitted(TokenClassification, FLIGHTS, backend)
    both = part(kind, features)
    assert both.units == 7
    outputs = torch.zeros(2, 5, 5)
    outputs[1, :2, 0] = math.log(4)
    # 5 words at probability 1/5; bob, B-person, at 1/8; sat, O, at 4/8; padding counts nothing.
    expected = (5 * math.log(5) + math.log(8) + math.log(2)) / 7
    assert kind.loss(outputs, both.columns).item() == pytest.approx(expected)
    outputs[1, 2:] = 100 * torch.randn(3, 5)
    assert kind.loss(outputs, both.columns).item() == pytest.approx(expected)


def test_words_cut_off_count_as_missed(backend):
    # [CLS] anna flew to [SEP]: berlin, a place, and 5 are cut off.
    kind, features = fitted(TokenClassification, FLIGHTS, backend, max_length=5)
    assert features.tokenized.truncated == 1
    columns = part(kind, features).columns
    assert columns["words"].tolist() == [[1, 2, 3, -1, -1], [1, 2, -1, -1, -1]]
    assert part(kind, features).units == 5
    answers = kind.decode(certain(kind, columns), columns)
    assert answers == [["B-person", "O", "O", "O", "O"], ["B-person", "O"]]
    outcome = kind.outcome(features, answers, None)
    # 2 of the 3 spans in gold are found, and nothing else.
    assert kind.all_metrics["span_recall"](outcome) == pytest.approx(2 / 3)
    assert kind.all_metrics["span_precision"](outcome) == 1.0


def test_a_word_cut_in_its_middle_is_still_read(backend):
    kind, features = fitted(TokenClassification, FLIGHTS, backend, max_length=7)
    # [CLS] anna flew to b ##e [SEP]
    assert part(kind, features, [0]).columns["words"].tolist() == [[1, 2, 3, 4, -1]]


def test_a_batch_without_a_single_word_has_loss_0(backend):
    kind, features = fitted(TokenClassification, {"tokens": [["the", "anna"]], "tags": [["O", "B-x"]]}, backend)
    columns = dict(part(kind, features).columns)
    columns["tags"] = torch.full_like(columns["tags"], -100)
    assert kind.loss(torch.randn(1, 2, 3), columns).item() == 0.0
    assert kind.units(columns, 1) == 0


def test_spans_in_characters_become_tags_on_words(backend):
    kind, features = fitted(TokenClassification, PLACES, backend)
    # Anna flew to New London , bob !
    assert kind.gold(features) == [["B-person", "O", "O", "B-place", "I-place", "O", "O", "O"], ["O", "O", "O"]]


def test_two_spans_of_one_type_side_by_side_stay_two(backend):
    spans = [{"start": 0, "end": 4, "type": "person"}, {"start": 5, "end": 8, "type": "person"}]
    kind, features = fitted(TokenClassification, {"text": ["anna bob sat"], "spans": [spans]}, backend)
    assert kind.gold(features) == [["B-person", "B-person", "O"]]


def test_a_span_inside_a_word_tags_the_word(backend):
    kind, features = fitted(
        TokenClassification, {"text": ["to berlin"], "spans": [[{"start": 5, "end": 7, "type": "x"}]]}, backend
    )
    assert kind.gold(features) == [["O", "B-x"]]


def test_a_span_cut_off_with_the_end_of_a_text_counts_as_missed(backend):
    # [CLS] anna flew to [SEP]: the place is not seen.
    kind, features = fitted(TokenClassification, PLACES, backend, max_length=5)
    columns = part(kind, features).columns
    answers = kind.decode(certain(kind, columns), columns)
    assert answers[0] == ["B-person", "O", "O"]
    outcome = kind.outcome(features, answers, None)
    assert kind.all_metrics["span_recall"](outcome) == 1 / 2
    assert kind.all_metrics["span_precision"](outcome) == 1.0


def test_a_span_whose_end_is_cut_off_counts_as_missed(backend):
    columns = {"text": ["bob flew to london paris"], "spans": [[{"start": 12, "end": 24, "type": "place"}]]}
    # [CLS] bob flew to london [SEP]: of "london paris" only the first word is seen.
    kind, features = fitted(TokenClassification, columns, backend, max_length=6)
    columns = part(kind, features).columns
    answers = kind.decode(certain(kind, columns), columns)
    assert answers == [["O", "O", "O", "B-place"]]
    outcome = kind.outcome(features, answers, None)
    assert kind.all_metrics["span_recall"](outcome) == 0.0
    assert kind.all_metrics["span_precision"](outcome) == 0.0


def test_a_span_that_ends_in_a_space_is_not_taken_for_cut_off(backend):
    kind, features = fitted(
        TokenClassification, {"text": ["to paris "], "spans": [[{"start": 3, "end": 9, "type": "x"}]]}, backend
    )
    assert kind.gold(features) == [["O", "B-x"]]


def test_the_trivial_tagger_finds_nothing(backend):
    kind, features = fitted(TokenClassification, FLIGHTS, backend)
    assert kind.trivial() == []
    outcome = kind.trivial_outcome(features)
    assert kind.all_metrics["span_f1"](outcome) == 0.0
    assert kind.all_metrics["tag_accuracy"](outcome) == pytest.approx(4 / 7)  # 4 of 7 tags are O


def shown(kind, features, row=0):
    columns = part(kind, features, [row]).columns
    (answer,) = kind.decode(certain(kind, columns), columns)
    arrays = {key: value[0].numpy() for key, value in columns.items()}
    return kind.present(answer, None, features.requests[row], arrays)["entities"]


def test_entities_of_a_text_are_presented_with_their_characters(backend):
    kind, features = fitted(TokenClassification, PLACES, backend)
    assert shown(kind, features) == [
        {"type": "person", "text": "Anna", "start": 0, "end": 4},
        {"type": "place", "text": "New London", "start": 13, "end": 23},
    ]


def test_characters_are_right_after_accents_emoji_and_double_spaces(backend):
    text = "Zoë 🙂  flew to São Tomé."
    start = text.index("São")
    spans = [{"start": start, "end": start + 8, "type": "place"}, {"start": 0, "end": 3, "type": "person"}]
    kind, features = fitted(TokenClassification, {"text": [text], "spans": [spans]}, backend)
    assert shown(kind, features) == [
        {"type": "person", "text": "Zoë", "start": 0, "end": 3},
        {"type": "place", "text": "São Tomé", "start": start, "end": start + 8},
    ]


def test_entities_of_words_are_presented_with_their_word_numbers(backend):
    columns = {"tokens": [["to", "New", "London", "bob"]], "tags": [["O", "B-place", "I-place", "B-person"]]}
    kind, features = fitted(TokenClassification, columns, backend)
    assert shown(kind, features) == [
        {"type": "place", "text": "New London", "start": 1, "end": 3},
        {"type": "person", "text": "bob", "start": 3, "end": 4},
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tokens": [["a", "b"]], "tags": [["O"]]}, "row 1: there are 2 tokens and 1 tags; each token needs one tag"),
        ({"tokens": ["a b"], "tags": [["O"]]}, "row 1: .*each token needs one tag"),
        ({"tokens": [["a"]], "tags": [["place"]]}, r"row 1: tag 'place' is not BIO: write O, B-type or I-type"),
        ({"text": ["a b"], "spans": [[{"start": 1, "end": 9, "type": "x"}]]}, "row 1: span 1 to 9 is outside the text of 3"),
        ({"text": ["a b"], "spans": [[{"start": 1, "end": 1, "type": "x"}]]}, "row 1: span 1 to 1 is outside"),
        ({"text": ["a b"], "spans": [[{"start": 1, "end": 2}]]}, "is not an object with start, end and type"),
        ({"text": ["a b"], "tags": [["O"]]}, "needs the columns tokens and tags, or text and spans"),
        ({"tokens": [["a"]], "tags": [["O"]]}, "no row of given.csv has an entity; there is nothing to learn"),
    ],
)
def test_faulty_tags_and_spans_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        kind_of(TokenClassification).fit(rows_of(columns))


# All kinds


@pytest.mark.parametrize(
    ("cls", "columns", "readable"),
    [
        (Classification, {"text"}, True),
        (Classification, {"label"}, False),
        (PairClassification, {"text"}, False),
        (PairClassification, {"text", "text_pair"}, True),
        (TokenClassification, {"tokens"}, True),
        (TokenClassification, {"text"}, True),
        (TokenClassification, {"tags"}, False),
    ],
)
def test_a_kind_says_what_it_can_predict_from(cls, columns, readable):
    assert kind_of(cls).readable(columns) is readable


def test_a_metric_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"kind 'k' has no metric 'macro_f2'\. Did you mean 'macro_f1'\?"):
        _ = kind_of(Classification, metric="macro_f2").primary_metric


def test_what_is_looked_at_rather_than_ranked_is_no_primary_metric():
    with pytest.raises(ConfigError, match="has no metric 'confusion_matrix'"):
        _ = kind_of(Classification, metric="confusion_matrix").primary_metric


def test_a_metric_that_a_plugin_brings_can_be_primary():
    extra = Metric("balanced", lambda outcome: 0.25)
    kind = Classification(Task(name="t", kind="k", data=[], metric="balanced"), [extra])
    assert kind.primary_metric is extra


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"options of kind 'k'.*treshold: unknown key\. Did you mean 'threshold'\?"):
        kind_of(MultiLabel, options={"treshold": 0.3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("   ", "row 1: column 'text' is empty"),
        (None, "row 1: column 'text' holds nothing; a text is needed"),
        (7, r"row 1: column 'text' holds 7 \(int\); a text is needed. Is another column meant\?"),
        (math.nan, r"row 1: column 'text' holds nan \(float\); a text is needed. Mend or remove the row"),
        ("a b c d e f", r"row 1: column 'text' has 6 words, more than max_words \(5\)"),
    ],
)
def test_a_text_that_cannot_be_read_is_named_with_file_and_row(text, message):
    with pytest.raises(DataError, match=rf"given\.csv, {message}"):
        kind_of(Classification, max_words=5).requests(rows_of({"text": [text]}))
