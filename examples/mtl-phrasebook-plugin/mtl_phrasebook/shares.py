"""Vote shares: a distribution over names, for questions on which people do not agree."""

import numpy as np
import torch
from torch import nn

import mtl
from mtl.model.heads import PooledHead


def total_variation(outcome):
    """Return the mean over rows of half the absolute differences between two distributions."""
    return float(np.mean(np.abs(np.subtract(outcome.gold, outcome.predicted)).sum(axis=1) / 2))


class VoteShares(mtl.TaskKind):
    """The share of the votes that each name got, by cross-entropy with the shares; a unit is a row.

    Soft labels keep what a majority throws away (Peterson et al. 2019, arXiv:1908.07086).
    """

    roles = {"text": True, "votes": True}
    target_roles = frozenset({"votes"})
    metrics = (mtl.Metric("total_variation", total_variation, higher_is_better=False, best=0.0),)
    names = ()
    mean = ()

    @classmethod
    def sample(cls):
        texts = {"hey you": (0, 3), "dear sir": (3, 0), "hello there": (1, 2), "good day": (2, 1)}
        rows = [{"text": text, "votes": {"formal": f, "casual": c}} for text, (f, c) in texts.items()]
        return {"data": [*rows, *({**row, "text": f"oh {row['text']}"} for row in rows)]}

    @property
    def labels(self):
        return self.names

    @property
    def state(self):
        return {"names": list(self.names), "mean": list(self.mean)}

    def load_state(self, state):
        self.names, self.mean = tuple(state["names"]), tuple(state["mean"])

    def fit(self, rows):
        found = {name for index in range(len(rows)) for name in self.votes(rows, index)}
        self.names = self.task.labels or tuple(sorted(found))
        self.mean = tuple(np.mean(self.shares(rows), axis=0).tolist())

    def requests(self, rows):
        return rows.texts("text", max_words=self.task.max_words)

    def targets(self, rows, tokenized):
        return {"shares": self.shares(rows)}

    def head(self, hidden):
        return PooledHead(hidden, len(self.names))

    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch["shares"])

    def gold(self, features):
        return features.columns["shares"].tolist()

    def decode(self, outputs, batch):
        return torch.softmax(outputs.float(), dim=-1).tolist()

    def trivial(self):
        return list(self.mean)

    def present(self, answer, scores, requests, batch):
        return {"shares": {name: round(share, 4) for name, share in zip(self.names, answer, strict=True)}}

    def shares(self, rows):
        """Return the share of each name, ``[rows, names]``."""
        counts = np.zeros((len(rows), len(self.names)), dtype=np.float32)
        for index in range(len(rows)):
            for name, count in self.votes(rows, index).items():
                if name not in self.names:
                    raise rows.error(index, f"there are votes for {name!r}; known are {', '.join(self.names)}.")
                counts[index, self.names.index(name)] = count
        return counts / counts.sum(axis=1, keepdims=True)

    def votes(self, rows, index):
        """Return how many votes each name got in a row, as it is in the data."""
        votes = {name: count for name, count in (rows["votes"][index] or {}).items() if count is not None}
        if not votes or any(type(count) is not int or count < 0 for count in votes.values()) or not sum(votes.values()):
            raise rows.error(index, f"votes are {votes!r:.60}; whole numbers by name are needed, not all 0.")
        return votes
