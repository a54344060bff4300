"""The tasks of the bundled corpus: customer messages in six domains, two of them held out as targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtl.task import SPLITS, Split, Task

_FOLDER = Path(__file__).parent
SOURCE_DOMAINS = ("banking", "travel", "retail", "telecom")
TARGET_DOMAINS = ("healthcare", "utilities")
_MESSAGES = str(_FOLDER / "messages_{split}.jsonl")
_SOURCES = {"domain": SOURCE_DOMAINS}


def _intents(name: str, domains: tuple[str, ...], description: str) -> Task:
    return Task(
        name=name,
        kind="classification",
        data=_MESSAGES,
        columns={"label": "intent"},
        where={"domain": domains},
        description=description,
    )


def _replies() -> dict[Split, list[dict[str, Any]]]:
    """Return the messages of the source domains, each with the replies to all intents of its domain."""
    replies = json.loads((_FOLDER / "replies.json").read_text(encoding="utf-8"))
    rows: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for line in Path(_MESSAGES.format(split=split)).read_text(encoding="utf-8").splitlines():
            message = json.loads(line)
            if message["domain"] in SOURCE_DOMAINS:
                own = replies[message["domain"]]
                label = [*own].index(message["intent"])
                rows[split].append({"text": message["text"], "candidates": [*own.values()], "label": label})
    return rows


TASKS = (
    _intents("helpdesk/intent", SOURCE_DOMAINS, "what the customer wants, 32 intents of the four source domains"),
    *(_intents(f"helpdesk/intent/{domain}", (domain,), f"8 intents of {domain}, a held-out target") for domain in TARGET_DOMAINS),
    Task(
        name="helpdesk/sentiment",
        kind="classification",
        data=_MESSAGES,
        columns={"label": "sentiment"},
        where=_SOURCES,
        metric="macro_f1",
        description="the writer's tone: negative, neutral or positive",
    ),
    Task(
        name="helpdesk/urgency",
        kind="regression",
        data=_MESSAGES,
        columns={"label": "urgency"},
        where=_SOURCES,
        options={"low": 0, "high": 4},
        description="how soon somebody must act, 0 to 4",
    ),
    Task(
        name="helpdesk/entities",
        kind="token-classification",
        data=_MESSAGES,
        columns={"spans": "entities"},
        where=_SOURCES,
        description="amounts, dates, products, places, persons and references",
    ),
    Task(
        name="helpdesk/reply",
        kind="ranking",
        data=_replies(),
        options={"negatives": "batch"},
        description="which of the eight replies of the message's domain answers it",
    ),
    Task(
        name="helpdesk/similarity",
        kind="regression",
        data=str(_FOLDER / "pairs_{split}.jsonl"),
        columns={"text": "text", "text_pair": "text_pair", "label": "similarity"},
        options={"low": 0, "high": 5, "pairing": "bi"},
        description="how alike two messages are, 0 to 5, all domains",
    ),
)
