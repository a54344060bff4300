from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import splits
from kind_setup import backend, batch_of, fitted, kind_of, loss_of, model_of, part, rows_of  # noqa: F401

import mtl
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.tokenizer import Tokenizer
from mtl.errors import DataError
from mtl.metrics import Outcome
from mtl_tasks.generation import Generation
from mtl_tasks.subwords import Subwords

TEXTS = {
    "source": ["the cat sat", "bob flew to paris", "a dog is bad"],
    "target": ["a good cat", "bob was in paris", "not good"],
}
SMALL = {"layers": 1, "longest": 12, "label_smoothing": 0.0}


def sure(columns, size):
    """Outputs of a decoder that is sure of the target."""
    return 20 * torch.nn.functional.one_hot(columns["target"].long().clamp(min=0), size).float()


@pytest.mark.parametrize("options", [SMALL, {**SMALL, "vocabulary": "own"}])
def test_sure_outputs_are_decoded_to_the_targets(options, backend):
    kind, features = fitted(Generation, TEXTS, backend, options=options)
    columns = part(kind, features).columns
    answers = kind.decode(sure(columns, kind._writes.size), columns)
    assert answers == TEXTS["target"]
    assert kind.primary_metric(kind.outcome(features, answers, None)) == pytest.approx(100.0)


def test_an_own_vocabulary_keeps_case_accents_and_punctuation():
    texts = ["Zwei junge Männer, im Freien.", "Süße Bären: weiß!"]
    subwords = Subwords.learn(texts, 200)
    assert [subwords.decode(tokens) for tokens in subwords.encode(texts)] == texts
    again = Subwords(subwords.text)
    assert (again.size, again.start, again.end, again.encode(texts)) == (
        subwords.size,
        subwords.start,
        subwords.end,
        subwords.encode(texts),
    )


def test_the_loss_is_the_cross_entropy_of_a_token(backend):
    kind, features = fitted(Generation, TEXTS, backend, options=SMALL)
    columns, size = part(kind, features).columns, kind.vocabulary.size
    outputs = torch.zeros(*columns["target"].shape, size)
    assert kind.loss(outputs, columns).item() == pytest.approx(math.log(size), rel=1e-5)
    # "in" is a word; 3, 4 and 2 tokens and an end each.
    assert part(kind, features).units == 4 + 5 + 3


def test_the_loss_is_the_mean_over_tokens(backend, encoder_folder):
    kind, features = fitted(Generation, TEXTS, backend, options=SMALL)
    model = model_of(kind, encoder_folder)
    units = [part(kind, features, [row]).units for row in range(3)]
    total = sum(loss_of(kind, model, features, [row]) * count for row, count in enumerate(units))
    assert loss_of(kind, model, features) == pytest.approx(total / sum(units), rel=1e-4)


def test_the_decoder_reads_the_target_shifted_by_one(backend, encoder_folder):
    kind, features = fitted(Generation, TEXTS, backend, options=SMALL)
    model, batch = model_of(kind, encoder_folder), batch_of(kind, features)
    seen = []
    decoder = model.head("t").decoder
    decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(batch)
    target = batch.parts["t"].columns["target"]
    assert seen[0][:, 0].tolist() == [kind.vocabulary.start] * 3
    assert seen[0][:, 1:].tolist() == target[:, :-1].clamp(min=0).tolist()


def test_a_long_target_is_cut_with_its_end(backend):
    kind, features = fitted(Generation, TEXTS, backend, options={**SMALL, "longest": 3})
    assert [len(features.columns["target"][row]) for row in range(3)] == [3, 3, 3]
    assert all(features.columns["target"][row][-1] == kind.vocabulary.end for row in range(3))


def test_metrics_take_the_best_of_several_references(backend):
    columns = {**TEXTS, "references": [["a good cat", "a fine cat"], ["bob was in paris"], ["not good", "bad"]]}
    kind, features = fitted(Generation, columns, backend, options=SMALL)
    outcome = kind.outcome(features, ["a fine cat", "bob was in paris", "bad"], None)
    assert kind.all_metrics["rouge1"](outcome) == pytest.approx(1.0)
    assert kind.all_metrics["bleu"](outcome) == pytest.approx(100.0)


def test_rouge_is_the_mean_f1_of_words_and_chrf_goes_to_100():
    kind = kind_of(Generation)
    outcome = Outcome([["the cat sat"], ["a dog"]], ["the cat", "bob"])
    # "the cat": precision 1, recall 2/3, F1 4/5; "bob": 0.
    assert kind.all_metrics["rouge1"](outcome) == pytest.approx(0.4)
    assert kind.primary_metric(Outcome([["the cat"]], ["the cat"])) == kind.primary_metric.best == pytest.approx(100.0)


@pytest.mark.parametrize(("baseline", "answers"), [("copy", "Bob ran. He sat!"), ("first-sentence", "Bob ran.")])
def test_the_source_or_its_first_sentence_is_trivial(baseline, answers, backend):
    columns = {"source": ["Bob ran. He sat!"], "target": ["bob"]}
    kind, features = fitted(Generation, columns, backend, options={**SMALL, "baseline": baseline})
    assert list(kind.trivial_outcome(features).predicted) == [answers]


def test_its_vocabulary_goes_through_json(backend):
    kind, _ = fitted(Generation, TEXTS, backend, options={**SMALL, "vocabulary": "own"})
    again = kind_of(Generation, backend, options={**SMALL, "vocabulary": "own"})
    again.load_state(json.loads(json.dumps(kind.state)))
    assert again._writes.encode(["bob was"]) == kind._writes.encode(["bob was"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": [""]}, "row 1: column 'target' is empty"),
        ({"target": [None]}, "row 1: column 'target' holds nothing; a text is needed"),
        ({"source": [" "]}, "row 1: column 'source' is empty"),
        ({"references": [[]]}, r"row 1: references is \[\]; a list of texts is needed"),
        ({"references": ["a cat"]}, "row 1: references is 'a cat'; a list of texts is needed"),
    ],
)
def test_a_row_that_cannot_be_learned_is_named(changes, message, backend):
    columns = {"source": ["the cat"], "target": ["a dog"]} | changes
    with pytest.raises(DataError, match=f"given.csv, {message}"):
        fitted(Generation, columns, backend, options=SMALL)


def test_without_a_target_nothing_is_scored(backend, encoder_folder):
    kind, _ = fitted(Generation, TEXTS, backend, options=SMALL)
    features = featurize(kind, rows_of({"source": ["the cat"]}), Tokenizer(backend, 32), with_targets=False)
    batch = collate({"t": [0]}, {"t": features})
    outputs, answers = model_of(kind, encoder_folder).answer(batch)["t"]
    assert outputs.shape == (1, 0, kind.vocabulary.size)
    assert isinstance(answers[0], str)


def test_it_learns_to_write_and_writes_alike_from_a_bundle(experiment_values):
    words = ["cat", "dog", "bob", "anna"]
    rows = [{"source": f"{word} sat on {number}", "target": f"the {word}"} for number in range(16) for word in words]
    task = {"name": "texts", "kind": "generation", "data": splits(rows), "options": {"layers": 1, "longest": 6, "beams": 2}}
    rates = {"learning_rate": 3e-3, "head_learning_rate": 3e-3}
    values = {**experiment_values, "tasks": [task], "optimizer": rates, "budget": {"epochs": 150}, "evaluation": {"times": 0}}
    finished = mtl.Experiment.of(**values).run()
    about = finished.runs[0]["results"]["tasks"]["texts"]
    assert about["value"] > about["trivial"] + 20
    bundle = mtl.load_bundle(finished.folder)
    (answer,) = bundle.predict([{"source": "dog sat on 3"}])
    assert answer["texts"]["text"] == "the dog"
