"""What a user of the Hugging Face Trainer writes for two tasks: the module, and the data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor, nn

from mtl.data.features import Features


class TwoHeads(nn.Module):
    """The module that a user of the Hugging Face Trainer writes for two tasks.

    Args:
        backbone: The ``AutoModel``.
        heads: A linear layer for each task.
    """

    def __init__(self, backbone: Any, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.backbone, self.heads, self.dropout = backbone, nn.ModuleList(heads), nn.Dropout(0.1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, task: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss and the logits, padded to the larger head."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        states = self.backbone(**inputs).last_hidden_state
        weights = attention_mask.unsqueeze(-1).float()
        pooled = self.dropout((states * weights).sum(1) / weights.sum(1))
        logits = pooled.new_full((len(pooled), max(head.out_features for head in self.heads)), float("-inf"))
        for number, head in enumerate(self.heads):
            own = (task == number).nonzero().squeeze(-1)
            logits[own, : head.out_features] = head(pooled[own]).to(logits)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def as_dataset(features: Features, number: int) -> Dataset:
    """Turn mtl's features of a task into what the Hugging Face Trainer reads: the very same tokens and labels."""
    tokens = [features.tokenized[row][0].tolist() for row in range(len(features))]
    columns = {
        "input_ids": tokens,
        "attention_mask": [[1] * len(ids) for ids in tokens],
        "token_type_ids": [[0] * len(ids) for ids in tokens],
        "task": [number] * len(tokens),
        "label": np.asarray(features.columns["label"]).tolist(),
    }
    return Dataset.from_dict(columns)
