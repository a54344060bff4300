from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from kind_setup import backend, batch_of, fitted, kind_of, loss_of, model_of, part, rows_of  # noqa: F401

from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.tokenizer import Tokenizer
from mtl.errors import ConfigError, DataError
from mtl.metrics import Outcome
from mtl_tasks.masked_language_modelling import MaskedLanguageModelling, MaskHead

TEXTS = {"text": ["the cat sat on a mat", "bob flew from london to paris", "berlin is very good"]}
#: "berlin" is no word of the vocabulary: six tokens of one word.
BERLIN = {"text": ["berlin is very good"]}


def tokens_of(backend, features, row):
    return backend.convert_ids_to_tokens(features.tokenized.input_ids[row].tolist())


def restored(features, row):
    """The tokens of a row with what was hidden put back."""
    tokens = features.tokenized.input_ids[row].copy()
    tokens[features.columns["places"][row]] = features.columns["tokens"][row]
    return tokens.tolist()


def test_so_many_words_are_hidden_behind_the_mask(backend):
    options = {"masked": 0.34, "replaced": 1.0, "random": 0.0}
    _, features = fitted(MaskedLanguageModelling, TEXTS, backend, options=options)
    # 0.34 of 6, 6 and 4 words: 2.04, 2.04 and 1.36, rounded.
    masks = [tokens_of(backend, features, row).count("[MASK]") for row in range(2)]
    assert masks == [2, 2]


def test_what_is_hidden_is_what_was_there(backend):
    _, features = fitted(MaskedLanguageModelling, TEXTS, backend)
    plain = Tokenizer(backend, 32)(TEXTS["text"])
    assert [restored(features, row) for row in range(3)] == [plain.input_ids[row].tolist() for row in range(3)]


def test_all_tokens_of_a_word_are_hidden_together(backend):
    options = {"masked": 0.2, "replaced": 1.0, "random": 0.0}
    kind, features = fitted(MaskedLanguageModelling, BERLIN, backend, options=options)
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(40):  # one of four words is hidden
        sizes.add(len(kind.redraw(features, [0], rng).columns["places"][0]))
    assert sizes == {1, 6}


def test_single_tokens_may_be_hidden_alone(backend):
    options = {"masked": 0.2, "whole_words": False}
    kind, features = fitted(MaskedLanguageModelling, BERLIN, backend, options=options)
    rng = np.random.default_rng(0)
    # 9 tokens: 1.8, rounded 2, whatever words they are of.
    assert {len(kind.redraw(features, [0], rng).columns["places"][0]) for _ in range(10)} == {2}


def test_other_words_are_hidden_each_time_and_none_is_lost(backend):
    kind, features = fitted(MaskedLanguageModelling, TEXTS, backend)
    rng, seen = np.random.default_rng(0), set()
    plain = restored(features, 1)
    for _ in range(20):
        features = kind.redraw(features, [0, 1, 2], rng)
        seen.add(tuple(features.columns["places"][1].tolist()))
        assert restored(features, 1) == plain
    assert len(seen) > 3


def test_of_what_is_hidden_most_shows_the_mask_and_some_another_token_or_itself(backend):
    long = {"text": ["the cat sat on a mat " * 40] * 10}
    kind, features = fitted(MaskedLanguageModelling, long, backend, max_length=260, options={"masked": 0.9})
    shown = np.concatenate([features.tokenized.input_ids[row][features.columns["places"][row]] for row in range(10)])
    gold = features.columns["tokens"].values
    assert (shown == kind.vocabulary.mask).mean() == pytest.approx(0.8, abs=0.03)
    assert (shown == gold).mean() == pytest.approx(0.1, abs=0.03)


def test_validation_is_hidden_alike_every_time(backend):
    first, again = (fitted(MaskedLanguageModelling, TEXTS, backend)[1] for _ in range(2))
    assert first.tokenized.input_ids.values.tolist() == again.tokenized.input_ids.values.tolist()


def test_the_loss_is_a_mean_over_hidden_tokens(backend, encoder_folder):
    kind, features = fitted(MaskedLanguageModelling, TEXTS, backend, options={"masked": 0.3})
    model = model_of(kind, encoder_folder)
    units = [part(kind, features, [row]).units for row in range(3)]
    total = sum(loss_of(kind, model, features, [row]) * count for row, count in enumerate(units))
    assert loss_of(kind, model, features) == pytest.approx(total / sum(units), rel=1e-4)
    assert part(kind, features).units == sum(units)


def test_the_head_reads_hidden_places_by_the_embeddings_of_the_encoder():
    head = MaskHead(2, 3, torch.tensor([0.0, 1.0, 2.0]))
    head.transform = torch.nn.Identity()
    torch.nn.init.ones_(head.scale)
    encoded = type("Encoded", (), {})
    encoded.states = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    encoded.embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # (1, 2) · embeddings: 1, 2, 3; plus the bias.
    assert head(encoded, {"places": torch.tensor([[1]])}).tolist() == [[[1.0, 3.0, 5.0]]]


def test_the_gradient_reaches_the_embeddings_through_the_head(backend, encoder_folder):
    kind, features = fitted(MaskedLanguageModelling, TEXTS, backend)
    model, batch = model_of(kind, encoder_folder), batch_of(kind, features)
    model.loss("t", model(batch)["t"], batch).backward()
    gradient = model.encoder.backbone.get_input_embeddings().weight.grad
    absent = backend.convert_tokens_to_ids("awful")  # in no text: only the output side can move it
    assert float(gradient[absent].abs().sum()) > 0


def test_perplexity_is_the_exponential_of_the_loss_and_lower_is_better(backend):
    metric = kind_of(MaskedLanguageModelling).primary_metric
    assert (metric.name, metric.higher_is_better) == ("perplexity", False)
    assert metric(Outcome([["a"]], [["a"]], loss=math.log(8))) == pytest.approx(8.0)


def test_the_trivial_perplexity_is_that_of_the_tokens_frequencies(backend):
    kind, features = fitted(MaskedLanguageModelling, {"text": ["the the the cat", "the the the cat"]}, backend)
    size = kind.vocabulary.size
    share = {"the": 7 / (size + 8), "cat": 3 / (size + 8)}  # 6 and 2 of 8 tokens, one added to every count
    hidden = [token for row in kind.gold(features) for token in row]
    expected = math.exp(-np.mean([math.log(share[token]) for token in hidden]))
    assert kind.primary_metric(kind.trivial_outcome(features)) == pytest.approx(expected, rel=1e-5)
    assert kind.trivial() == ["the"]


def test_accuracy_counts_hidden_tokens_of_all_rows():
    accuracy = kind_of(MaskedLanguageModelling).all_metrics["masked_accuracy"]
    assert accuracy(Outcome([["a", "b"], ["c"]], [["a", "x"], ["c"]])) == pytest.approx(2 / 3)


def test_the_masks_of_a_text_are_filled_in(backend, encoder_folder):
    kind, _ = fitted(MaskedLanguageModelling, TEXTS, backend)
    rows = rows_of({"text": ["the [MASK] sat on a [MASK]", "bob"]})
    features = featurize(kind, rows, Tokenizer(backend, 32), with_targets=False)
    assert [places.tolist() for places in (features.columns["places"][row] for row in range(2))] == [[2, 6], []]
    columns = collate({"t": range(2)}, {"t": features}).parts["t"].columns
    outputs = torch.zeros(2, 2, kind.vocabulary.size)
    cat, mat = (backend.convert_tokens_to_ids(word) for word in ("cat", "mat"))
    outputs[0, 0, cat] = outputs[0, 1, mat] = 5.0
    assert kind.decode(outputs, columns) == [["cat", "mat"], []]


def test_its_state_goes_through_json(backend):
    kind, _ = fitted(MaskedLanguageModelling, TEXTS, backend)
    again = kind_of(MaskedLanguageModelling, backend)
    again.load_state(json.loads(json.dumps(kind.state)))
    assert again._log_frequencies().tolist() == kind._log_frequencies().tolist()


def test_shares_above_one_are_refused():
    with pytest.raises(ConfigError, match=r"replaced and random are at most 1 together \(found 0.9 and 0.2\)"):
        kind_of(MaskedLanguageModelling, options={"replaced": 0.9, "random": 0.2})


@pytest.mark.parametrize("text", ["[MASK] [MASK]", "日 本"])
def test_a_text_in_which_nothing_can_be_hidden_is_named(text, backend):
    with pytest.raises(DataError, match=r"given.csv, row 2: no token of the text is known to the encoder"):
        fitted(MaskedLanguageModelling, {"text": ["the cat", text]}, backend)
