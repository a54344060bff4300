"""What tests share: a tiny random encoder, small data, a quick experiment. Nothing comes from the network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import copy
import json
import re
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "good", "bad", "fine", "awful", "not", "very", "is", "was"]
WORDS += ["paris", "london", "bob", "anna", "flew", "to", "from", "in"]

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the benchmark data in ../shared/data")


def make_encoder(folder: Path, *, hidden: int = 32, layers: int = 2, dropout: float = 0.1) -> Path:
    """Write a random BERT with a character-and-word vocabulary in the Hub's layout."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    characters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *characters, *(f"##{c}" for c in characters)]
    vocabulary = list(dict.fromkeys(vocabulary))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizerFast(vocab={token: number for number, token in enumerate(vocabulary)}, do_lower_case=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=128,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def smaller(example: Path, folder: Path, max_rows: dict[str, int], **targets: Any) -> Path:
    """Write an example with fewer rows of every task, and with other keys of its targets."""
    values = yaml.safe_load(example.read_text())
    for task in values["tasks"]:
        task["max_rows"] = max_rows
    values["targets"] |= targets
    path = folder / example.name
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random BERT on disk, hidden size 32."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep small models from waiting for busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the token cache of tests out of the user's home."""
    monkeypatch.setenv("MTL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("MTL_PLUGINS", raising=False)


def sentiment_rows(count: int) -> list[dict[str, Any]]:
    """Rows whose label is in the text: learnable by a tiny encoder."""
    subjects = ["the cat", "the dog", "bob", "anna"]
    verbs = ["sat on the mat", "ran to paris", "flew from london"]
    rows = []
    for number in range(count):
        mood = ("good", "bad")[number % 2]
        rows.append({"text": f"{subjects[number % 4]} {verbs[number % 3]} is {mood} {number}", "label": mood})
    return rows


def rating_rows(count: int) -> list[dict[str, Any]]:
    """Rows with a number to predict."""
    return [{"text": f"{'very ' * (number % 4)}good {number}", "label": float(number % 4)} for number in range(count)]


def entity_rows(count: int) -> list[dict[str, Any]]:
    """Rows of words with BIO tags."""
    places = ["paris", "london"]
    rows = []
    for number in range(count):
        tokens = ["anna", "flew", "to", places[number % 2], str(number)]
        rows.append({"tokens": tokens, "tags": ["B-person", "O", "O", "B-place", "O"]})
    return rows


def splits(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Divide rows: half train, a quarter each for validation and test."""
    half, quarter = len(rows) // 2, len(rows) // 4
    return {"train": rows[:half], "validation": rows[half : half + quarter], "test": rows[half + quarter :]}


@pytest.fixture
def experiment_values(encoder_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The keys of a quick experiment with three tasks of three kinds; change what a test is about."""
    return {
        "name": "quick",
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [
            {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))},
            {"name": "rating", "kind": "regression", "data": splits(rating_rows(48))},
            {"name": "places", "kind": "token-classification", "data": splits(entity_rows(40))},
        ],
        "budget": {"epochs": 2},
        "batch": {"size": 8},
        "evaluation": {"times": 2},
        "optimizer": {"learning_rate": 1e-3, "head_learning_rate": 1e-2},
        "threads": 1,
        "output": str(tmp_path / "runs"),
    }


@pytest.fixture
def write_experiment(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write an experiment file; JSON is YAML."""

    def write(values: dict[str, Any], name: str = "quick.yaml") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


#: What a person should not have to read.
JARGON = re.compile(r"Traceback|pydantic|[Ii]nput should|validation error|errors\.\w+|<class|object at 0x|NoneType\b(?!, not)")
LONGEST_MESSAGE = 700
#: Stands for a key to be left out.
DROP = object()


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command line with arguments, check that it fails as it should and return its message."""

    def call(*arguments: object, pieces: tuple[str, ...]) -> str:
        from mtl.cli import main

        monkeypatch.setattr(sys, "argv", ["mtl", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        error = capfd.readouterr().err
        assert stopped.value.code == 2, error
        assert error.startswith("Error: "), error
        assert len(error.splitlines()) == 1, error
        assert len(error) < LONGEST_MESSAGE, error
        assert not JARGON.search(error), error
        assert "  " not in error, error
        for piece in pieces:
            assert piece in error, f"{piece!r} is not in: {error}"
        return error

    return call


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with some keys set, or dropped; ``tasks.0.kind`` names a key of a list's item."""
    values = copy.deepcopy(values)
    for key, value in changes.items():
        place: Any = values
        *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
        for part in path:
            place = place[part] if isinstance(part, int) else place.setdefault(part, {})
        if value is DROP:
            del place[last]
        else:
            place[last] = value
    return values
