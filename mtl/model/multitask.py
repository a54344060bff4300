"""One shared encoder with a head for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtl.data.batches import Batch
from mtl.errors import PluginError
from mtl.kind import TaskKind
from mtl.model.encoder import Encoder


class MultiTaskModel(nn.Module):
    """One shared encoder with a head for each task.

    Args:
        encoder: Shared by all tasks.
        kinds: Task name → its kind.
        seed_of_task: Gives the seed of a task's head, so that it starts alike in whatever company.
    """

    def __init__(self, encoder: Encoder, kinds: Mapping[str, TaskKind], seed_of_task: Callable[[str], int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.kinds = dict(kinds)
        self.heads = nn.ModuleDict()
        for name, kind in self.kinds.items():
            kind.vocabulary = encoder.tokenizer.vocabulary
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of_task(name))
                head = kind.head(encoder.hidden)
            if not isinstance(head, nn.Module):
                raise PluginError(f"Kind {kind.task.kind!r}: head() returned {type(head).__name__}, not an nn.Module.")
            self.heads[head_key(name)] = head

    def head(self, task: str) -> nn.Module:
        """Return a task's head."""
        return self.heads[head_key(task)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Run the encoder once and every head that has rows in the batch.

        Returns:
            Task name → what its head gave; the form is the kind's own.
        """
        encoded = self.encoder(batch.inputs)
        return {name: self.head(name)(encoded.of(part.index, part.counts), part.columns) for name, part in batch.parts.items()}

    def answer(self, batch: Batch) -> dict[str, tuple[Tensor, list[Any]]]:
        """Run the encoder once, and answer with every head that has rows in the batch.

        Returns:
            Task name → what its head gave, and the answers, one a row.
        """
        encoded = self.encoder(batch.inputs)
        found = {}
        for name, part in batch.parts.items():
            own, head = encoded.of(part.index, part.counts), self.head(name)
            outputs = head(own, part.columns)
            found[name] = outputs, self.kinds[name].answer(head, own, outputs, part.columns)
        return found

    def loss(self, task: str, outputs: Tensor, batch: Batch) -> Tensor:
        """Return a task's loss, ``[]``, a mean per predicted unit."""
        return self.kinds[task].loss(outputs, batch.parts[task].columns)

    def parameter_groups(self, learning_rate: float, head_learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Split what is trained into AdamW's groups: encoder and heads, with and without weight decay."""
        groups = []
        for module, rate in ((self.encoder, learning_rate), (self.heads, head_learning_rate)):
            trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
            for decay, chosen in (
                (weight_decay, [parameter for parameter in trained if parameter.ndim > 1]),
                (0.0, [parameter for parameter in trained if parameter.ndim <= 1]),
            ):
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
        return groups


def head_key(task: str) -> str:
    """Make a task's name a module's: nn.Module reserves the dot, and the names of its own attributes (``type``)."""
    key = task.replace(".", ":")
    return f"{key}:" if hasattr(nn.ModuleDict, key) or key == "training" else key
