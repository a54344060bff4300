"""A traveller's phrases: where each is said, and how its tone strikes five readers."""

from pathlib import Path

import mtl

_PHRASES = str(Path(__file__).parent / "data" / "phrases.jsonl")

SITUATION = mtl.Task(
    name="phrasebook/situation",
    kind="classification",
    data=_PHRASES,
    columns={"label": "situation"},
    description="where a traveller says it: restaurant, station or hotel",
)
TONE = mtl.Task(
    name="phrasebook/tone",
    kind="vote-shares",
    data=_PHRASES,
    description="how five readers voted on the tone: casual, formal or neutral",
)


@mtl.hookimpl
def mtl_register_kinds(register):
    """Bring the kind; its module is imported when it is used."""
    register("vote-shares", "mtl_phrasebook.shares:VoteShares")


@mtl.hookimpl
def mtl_register_tasks(register):
    """Bring the tasks."""
    register(SITUATION)
    register(TONE)
