from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import mtl
import mtl_tasks.helpdesk as helpdesk
from mtl.data.sources import load_splits
from mtl.task import SPLITS
from mtl_tasks.classification import Classification
from mtl_tasks.ranking import Ranking
from mtl_tasks.regression import Regression
from mtl_tasks.token_classification import TokenClassification

FOLDER = Path(helpdesk.__file__).parent
KINDS = {
    "classification": Classification,
    "ranking": Ranking,
    "regression": Regression,
    "token-classification": TokenClassification,
}
TASKS = {task.name: task for task in helpdesk.TASKS}
DOMAINS = {*helpdesk.SOURCE_DOMAINS, *helpdesk.TARGET_DOMAINS}
ENTITIES = {"amount", "date", "product", "place", "person", "reference"}


def read(name):
    return {
        split: [json.loads(line) for line in (FOLDER / f"{name}_{split}.jsonl").read_text("utf-8").splitlines()]
        for split in SPLITS
    }


BY_SPLIT = read("messages")
MESSAGES = [message for split in SPLITS for message in BY_SPLIT[split]]
PAIRS_BY_SPLIT = read("pairs")
PAIRS = [pair for split in SPLITS for pair in PAIRS_BY_SPLIT[split]]


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path_factory, monkeypatch):
    """Keep the cache of `datasets` out of the user's home."""
    import datasets

    folder = tmp_path_factory.getbasetemp() / "hf"
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, folder / name)


def words(text):
    """Words in lower case; an apostrophe is part of a word."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def runs_of_five(text):
    found = words(text)
    return {tuple(found[start : start + 5]) for start in range(len(found) - 4)}


def test_there_are_6_domains_of_8_intents_of_12_messages():
    assert len(MESSAGES) == 576
    assert {message["domain"] for message in MESSAGES} == DOMAINS
    assert len(DOMAINS) == 6
    counts = Counter((message["domain"], message["intent"]) for message in MESSAGES)
    assert set(counts.values()) == {12}
    assert Counter(domain for domain, _ in counts) == dict.fromkeys(DOMAINS, 8)


def test_no_two_messages_share_a_run_of_five_words():
    owner: dict[tuple[str, ...], str] = {}
    for message in MESSAGES:
        for run in runs_of_five(message["text"]):
            assert run not in owner, f"{' '.join(run)!r} is in two messages:\n{owner[run]}\n{message['text']}"
            owner[run] = message["text"]


def test_no_message_stands_in_two_splits():
    texts = [{" ".join(words(message["text"])) for message in BY_SPLIT[split]} for split in SPLITS]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 576


def test_every_intent_is_in_every_split_in_the_same_number():
    for split in SPLITS:
        counts = Counter((message["domain"], message["intent"]) for message in BY_SPLIT[split])
        assert len(counts) == 48, split
        assert len(set(counts.values())) == 1, split


def test_spans_are_in_their_text_not_empty_and_of_a_known_type():
    for message in MESSAGES:
        text, end = message["text"], 0
        for span in sorted(message["entities"], key=lambda span: span["start"]):
            assert end <= span["start"] < span["end"] <= len(text), (text, span)
            covered = text[span["start"] : span["end"]]
            assert covered == covered.strip(), (text, covered)
            assert any(map(str.isalnum, covered)), (text, covered)
            end = span["end"]
    assert {span["type"] for message in MESSAGES for span in message["entities"]} == ENTITIES


def test_spans_begin_and_end_where_words_do():
    for message in MESSAGES:
        text = message["text"]
        for span in message["entities"]:
            for edge in (span["start"], span["end"]):
                inside = 0 < edge < len(text) and text[edge - 1].isalpha() and text[edge].isalpha()
                assert not inside, (text, text[span["start"] : span["end"]])


def test_urgency_is_in_halves_from_0_to_4():
    values = {message["urgency"] for message in MESSAGES}
    assert values <= {half / 2 for half in range(9)}
    assert {0.0, 4.0} <= values


def test_sentiment_is_one_of_three_and_none_is_rare():
    counts = Counter(message["sentiment"] for message in MESSAGES)
    assert set(counts) == {"negative", "neutral", "positive"}
    assert min(counts.values()) >= 576 / 10


def test_there_are_240_pairs_with_a_similarity_in_halves_from_0_to_5():
    assert len(PAIRS) == 240
    values = {pair["similarity"] for pair in PAIRS}
    assert values <= {half / 2 for half in range(11)}
    assert {0.0, 5.0} <= values
    assert {pair["domain"] for pair in PAIRS} == DOMAINS
    assert all(pair["text"].strip() and pair["text_pair"].strip() and pair["text"] != pair["text_pair"] for pair in PAIRS)


def test_no_pair_stands_twice_whichever_way_round():
    assert len({frozenset((pair["text"], pair["text_pair"])) for pair in PAIRS}) == 240


def test_every_intent_has_a_reply_of_its_own():
    replies = json.loads((FOLDER / "replies.json").read_text("utf-8"))
    assert {(domain, intent) for domain, texts in replies.items() for intent in texts} == {
        (message["domain"], message["intent"]) for message in MESSAGES
    }
    texts = [text for intents in replies.values() for text in intents.values()]
    assert all(text.strip() for text in texts)
    assert len(set(texts)) == 48


def rows_of(name):
    task = TASKS[name]
    return load_splits(task, dict(KINDS[task.kind].roles), FOLDER)


@pytest.mark.parametrize(
    "name", ["helpdesk/intent", "helpdesk/sentiment", "helpdesk/urgency", "helpdesk/entities", "helpdesk/reply"]
)
def test_source_tasks_have_all_messages_of_the_source_domains_and_none_of_the_targets(name):
    rows = rows_of(name)
    for split in SPLITS:
        wanted = [message["text"] for message in BY_SPLIT[split] if message["domain"] in helpdesk.SOURCE_DOMAINS]
        assert list(rows[split]["text"]) == wanted
    # 4 domains of 96 messages.
    assert sum(map(len, rows.values())) == 384
    held_out = {message["text"] for message in MESSAGES if message["domain"] in helpdesk.TARGET_DOMAINS}
    assert held_out.isdisjoint(text for part in rows.values() for text in part["text"])


def test_a_message_is_answered_by_the_reply_to_its_intent():
    replies = json.loads((FOLDER / "replies.json").read_text("utf-8"))
    rows = rows_of("helpdesk/reply")["test"]
    messages = [message for message in BY_SPLIT["test"] if message["domain"] in helpdesk.SOURCE_DOMAINS]
    for message, candidates, label in zip(messages, rows["candidates"], rows["label"], strict=True):
        assert len(candidates) == 8
        assert candidates[label] == replies[message["domain"]][message["intent"]]


@pytest.mark.parametrize("domain", helpdesk.TARGET_DOMAINS)
def test_a_target_task_has_the_messages_of_its_domain_and_5_shots_of_each_intent(domain):
    rows = rows_of(f"helpdesk/intent/{domain}")
    assert sum(map(len, rows.values())) == 96
    assert {text for part in rows.values() for text in part["text"]} == {
        message["text"] for message in MESSAGES if message["domain"] == domain
    }
    counts = Counter(rows["train"]["label"])
    assert len(counts) == 8
    assert min(counts.values()) >= 5


def test_the_demo_runs_with_every_strategy(encoder_folder, tmp_path):
    overrides = [
        f"encoder={{name: {encoder_folder}, max_length: 32}}",
        "budget={examples_per_task: 24}",
        "evaluation.times=1",
        "targets.protocol.draws=2",
        f"output={tmp_path}",
        "threads=1",
    ]
    finished = mtl.load_experiment("demo", overrides).run()
    # Nothing trained, each task alone, all at once; by distances in episodes, and by an inner loop of gradient descent.
    assert {run["results"]["strategy"] for run in finished.runs} == {"none", "single", "joint", "matching", "anil"}
    for run in finished.runs:
        for found in run["results"]["targets"].values():
            assert {target: {*shots} for target, by in found["figures"].items() for shots in by.values()} == {
                f"helpdesk/intent/{domain}": {"1", "5"} for domain in helpdesk.TARGET_DOMAINS
            }


def test_pairs_use_no_message_of_the_corpus():
    messages = {" ".join(words(message["text"])) for message in MESSAGES}
    assert messages.isdisjoint(" ".join(words(pair[side])) for pair in PAIRS for side in ("text", "text_pair"))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_fitted_and_measured(name):
    task = TASKS[name]
    kind = KINDS[task.kind](task)
    kind.fit(rows_of(name)["train"])
    assert kind.primary_metric.higher_is_better
    if name == "helpdesk/intent":
        assert len(kind.labels) == 32
    if name == "helpdesk/entities":
        assert kind.labels == ("O", *(f"{prefix}-{entity}" for entity in sorted(ENTITIES) for prefix in "BI"))
