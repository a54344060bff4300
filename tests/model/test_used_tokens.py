"""Only the embeddings of tokens that texts have are trained, and nothing else is changed by that."""

from __future__ import annotations

import pytest
import torch
from conftest import sentiment_rows, splits
from torch import nn
from torch.testing import assert_close

import mtl
import mtl.training.loop as loop
from mtl.config import EncoderConfig
from mtl.errors import EncoderError
from mtl.model.bundle import load_bundle
from mtl.model.encoded import Encoded
from mtl.model.encoder import load_encoder
from mtl.model.used_tokens import UsedTokens, narrow, widen


@pytest.fixture
def encoder(encoder_folder):
    return load_encoder(EncoderConfig(name=str(encoder_folder), max_length=32), encoder_folder).eval()


def ids_of(encoder, *texts):
    return [encoder.tokenizer.uncached(list(texts), False).input_ids.values]


def test_states_are_the_same_whether_a_token_is_used_or_not(encoder):
    table = encoder.backbone.get_input_embeddings()
    tokens = torch.arange(table.num_embeddings).reshape(1, -1)
    before = table(tokens)
    left = narrow(encoder, ids_of(encoder, "the cat is good"))
    made = encoder.backbone.get_input_embeddings()
    assert isinstance(made, UsedTokens)
    assert left == table.weight.numel() - made.weight.numel() > 0
    assert torch.equal(made(tokens), before)
    assert torch.equal(made(tokens[:, :1]), before[:, :1])
    made(tokens).sum().backward()
    assert made.weight.grad is not None
    assert table.weight.grad is None


def test_what_was_learned_is_in_the_whole_table_again(encoder):
    table = encoder.backbone.get_input_embeddings()
    before = table.weight.detach().clone()
    narrow(encoder, ids_of(encoder, "the cat is good"))
    made = encoder.backbone.get_input_embeddings()
    used = made.places >= 0
    with torch.no_grad():
        made.weight.add_(1)
    widen(encoder)
    assert encoder.backbone.get_input_embeddings() is table
    assert torch.equal(table.weight[used], before[used] + 1)
    assert torch.equal(table.weight[~used], before[~used])
    widen(encoder)  # nothing more to be done
    assert encoder.backbone.get_input_embeddings() is table


@pytest.mark.parametrize("what", ["frozen", "most of them", "tied", "of another sort"])
def test_where_it_saves_nothing_or_is_not_safe_the_table_stays(encoder, what):
    table = encoder.backbone.get_input_embeddings()
    ids = ids_of(encoder, "the cat")
    if what == "frozen":
        table.weight.requires_grad_(False)
    elif what == "most of them":
        ids = [torch.arange(table.num_embeddings).numpy()]
    elif what == "tied":
        encoder.backbone.other = nn.Linear(*reversed(table.weight.shape), bias=False)
        encoder.backbone.other.weight = table.weight
    else:
        table.sparse = True
    assert narrow(encoder, ids) == 0
    assert encoder.backbone.get_input_embeddings() is table


def test_a_head_that_reads_embeddings_without_saying_so_is_refused():
    states = torch.zeros(1, 2, 4)
    with pytest.raises(EncoderError, match="let its property reads_embeddings be True"):
        _ = Encoded(states, torch.ones(1, 2), states[:, 0]).embeddings


def texts(vocabulary):
    rows = [{"source": f"the cat sat {number}", "target": f"die Katze {number}"} for number in range(64)]
    options = {"vocabulary": vocabulary, "vocabulary_size": 60, "layers": 1, "longest": 6, "beams": 1}
    return {"name": "texts", "kind": "generation", "data": splits(rows), "options": options}


def train(experiment_values, name, **values):
    tasks = [{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))}]
    finished = mtl.Experiment.of(
        **{**experiment_values, "tasks": tasks, "name": name, "evaluation": {"times": 2}, **values}
    ).run()
    return finished.runs[0]["results"], load_bundle(finished.folder).model


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_training_is_the_same_but_for_the_decay_of_tokens_that_no_text_has(experiment_values, encoder, monkeypatch, decay):
    optimizer = {"weight_decay": decay, "learning_rate": 1e-3}
    narrowed, model = train(experiment_values, "narrow", optimizer=optimizer)
    monkeypatch.setattr(loop, "narrow_to", lambda model, data: 0)
    whole, other = train(experiment_values, "whole", optimizer=optimizer)
    counts = [found["models"]["joint"]["parameters"] for found in (narrowed, whole)]
    assert counts[0] == counts[1]
    assert narrowed["tasks"]["mood"]["test"]["loss"] == pytest.approx(whole["tasks"]["mood"]["test"]["loss"], rel=1e-4)
    start = encoder.backbone.get_input_embeddings().weight
    table, theirs = (found.encoder.backbone.get_input_embeddings().weight for found in (model, other))
    moved = (table != start).any(1)
    assert 4 < int(moved.sum()) < len(table) / 2
    assert torch.equal(table[~moved], start[~moved])
    assert_close(table[moved], theirs[moved], rtol=1e-3, atol=1e-5)
    assert torch.equal(theirs[~moved], start[~moved]) == (decay == 0)
    for (name, own), whole_one in zip(model.named_parameters(), other.parameters(), strict=True):
        if "word_embeddings" not in name:
            assert_close(own, whole_one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "narrowed"),
    [
        ({}, True),
        ({"strategy": "single"}, True),
        ({"encoder.freeze": "embeddings"}, False),
        ({"strategy": "protonet", "episodes": {"ways": 2, "shots": 1, "queries": 1}}, False),
        ({"tasks": [texts("own")]}, True),
        ({"tasks": [texts("encoder")]}, False),
        ({"tasks": [{"name": "words", "kind": "masked-language-modelling", "data": splits(sentiment_rows(64))}]}, False),
    ],
)
def test_it_is_for_trainings_of_heads_that_read_no_embeddings(experiment_values, monkeypatch, values, narrowed):
    seen = []
    step = loop.Trainer._step
    monkeypatch.setattr(
        loop.Trainer,
        "_step",
        lambda self, draw: (seen.append(type(self.model.encoder.backbone.get_input_embeddings())), step(self, draw))[1],
    )
    given = {**experiment_values, "tasks": experiment_values["tasks"][:1]}
    if "encoder.freeze" in values:
        given["encoder"] = {**given["encoder"], "freeze": values["encoder.freeze"]}
        values = {}
    mtl.Experiment.of(**{**given, **values}).run()
    assert set(seen) == {UsedTokens if narrowed else nn.Embedding}
