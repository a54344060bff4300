"""The same in Python, cell by cell."""

# %% The tasks as objects
import os

import mtl

situation = mtl.Task(
    name="situation",
    kind="classification",
    data="mtl_phrasebook/data/phrases.jsonl",
    columns={"label": "situation"},
)
tone = mtl.Task(name="tone", kind="vote-shares", data="mtl_phrasebook/data/phrases.jsonl")

# %% Train both on one encoder
experiment = mtl.Experiment.of(
    name="phrasebook-notebook",
    encoder=os.environ.get("ENCODER", "minilm"),
    tasks=[situation, tone],
    budget={"epochs": 10},
    batch={"size": 8},
)
finished = experiment.run()
print(finished)

# %% Ask the model
bundle = mtl.load_bundle(finished.folder)
print(bundle.predict(["Might I see the wine list?"])[0])
