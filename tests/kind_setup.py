"""What tests of kinds share: rows, a fitted kind with its features, and its part of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl.config import EncoderConfig
from mtl.data.batches import collate
from mtl.data.features import featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Tokenizer
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.task import Task


@pytest.fixture(scope="module")
def backend(encoder_folder):
    """The tiny encoder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)


def rows_of(columns: dict[str, list[Any]]) -> Rows:
    return Rows(columns, "given.csv", range(1, len(next(iter(columns.values()))) + 1))


def kind_of(cls, backend=None, **task):
    """A kind that is not fitted."""
    kind = cls(Task(**{"name": "t", "kind": "k", "data": []} | task))
    if backend is not None:
        kind.vocabulary = Tokenizer(backend, 32).vocabulary
    return kind


def fitted(cls, columns, backend, *, max_length=32, **task):
    """A fitted kind and the features of the rows it was fitted on."""
    kind, rows = kind_of(cls, backend, **task), rows_of(columns)
    kind.fit(rows)
    return kind, featurize(kind, rows, Tokenizer(backend, max_length))


def batch_of(kind, features, ids=None):
    return collate({"t": range(len(features)) if ids is None else ids}, {"t": features}, {"t": kind})


def part(kind, features, ids=None):
    return batch_of(kind, features, ids).parts["t"]


def model_of(kind, encoder_folder, *, max_length=32):
    """The tiny encoder with the kind's head, evaluating."""
    config = EncoderConfig(name=str(encoder_folder), max_length=max_length)
    return MultiTaskModel(load_encoder(config, encoder_folder), {"t": kind}, lambda name: 0).eval()


def loss_of(kind, model, features, ids=None):
    batch = batch_of(kind, features, ids)
    with torch.no_grad():
        return float(model.loss("t", model(batch)["t"], batch))
