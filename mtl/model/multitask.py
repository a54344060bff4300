"""One shared encoder with a head for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl.data.batches import Batch
from mtl.errors import PluginError
from mtl.kind import TaskKind
from mtl.model.encoded import Encoded
from mtl.model.encoder import Encoder
from mtl.model.mixing import ScalarMix

_MIX = "mix_of_layers"  # a part of the head, as it is stored and trained with it


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
        if encoder.adapters is not None:
            encoder.adapters.add_tasks([head_key(name) for name in kinds])
        for name, kind in self.kinds.items():
            kind.vocabulary = encoder.tokenizer.vocabulary
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of_task(name))
                head = kind.head(encoder.hidden)
            if not isinstance(head, nn.Module):
                raise PluginError(f"Kind {kind.task.kind!r}: head() returned {type(head).__name__}, not an nn.Module.")
            if encoder.mixing:
                head.add_module(_MIX, ScalarMix(1 + len(encoder.layers())))
            self.heads[head_key(name)] = head

    def head(self, task: str) -> nn.Module:
        """Return a task's head."""
        return self.heads[head_key(task)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Run the encoder once and every head that has rows in the batch.

        Returns:
            Task name → what its head gave; the form is the kind's own.
        """
        encoded = self.encode(batch)
        return {name: self.head(name)(encoded[name], part.columns) for name, part in batch.parts.items()}

    def encode(self, batch: Batch) -> dict[str, Encoded]:
        """Run the encoder once. Where it asks whose a sequence is, one of several tasks is there for each.

        Returns:
            Task name → what the encoder says of its sequences.
        """
        found = self._encode(batch)
        if self.encoder.mixing:
            found = {name: own.mixed(getattr(self.head(name), _MIX)) for name, own in found.items()}
        return found

    def _encode(self, batch: Batch) -> dict[str, Encoded]:
        if not (self.encoder.per_task or self.encoder.parted):
            encoded = self.encoder(batch.inputs)
            return {name: encoded.of(part.index, part.counts) for name, part in batch.parts.items()}
        everything = torch.arange(len(batch.inputs["attention_mask"]), device=batch.inputs["attention_mask"].device)
        chosen: list[Tensor] = []
        owners: list[str] = []
        places: dict[str, Tensor] = {}
        for name, part in batch.parts.items():
            own, back = torch.unique(everything if part.index is None else part.index, return_inverse=True)
            places[name] = back + len(owners)
            chosen.append(own)
            owners += [head_key(name)] * len(own)
        rows = torch.cat(chosen)
        encoded = self.encoder({name: value[rows] for name, value in batch.inputs.items()}, owners=owners)
        return {name: encoded.of(places[name], part.counts) for name, part in batch.parts.items()}

    def answer(self, batch: Batch) -> dict[str, tuple[Tensor, list[Any]]]:
        """Run the encoder once, and answer with every head that has rows in the batch.

        Returns:
            Task name → what its head gave, and the answers, one a row.
        """
        encoded, found = self.encode(batch), {}
        for name, part in batch.parts.items():
            own, head = encoded[name], self.head(name)
            outputs = head(own, part.columns)
            found[name] = outputs, self.kinds[name].answer(head, own, outputs, part.columns)
        return found

    def loss(self, task: str, outputs: Tensor, batch: Batch) -> Tensor:
        """Return a task's loss, ``[]``, a mean per predicted unit."""
        return self.kinds[task].loss(outputs, batch.parts[task].columns)

    def on(self, encoder: Encoder, tasks: Sequence[str]) -> MultiTaskModel:
        """Return a model with the heads of some tasks on another encoder."""
        made = MultiTaskModel(encoder, {}, lambda name: 0)
        made.kinds = {name: self.kinds[name] for name in tasks}
        made.heads = nn.ModuleDict({head_key(name): self.head(name) for name in tasks})
        return made.train(self.training)

    def own(self, task: str) -> list[nn.Parameter]:
        """Return what is trained for one task alone: its head, and its adapters where it has some."""
        names = self.encoder.adapter_names(head_key(task)) if self.encoder.per_task else ()
        adapters = [parameter for name, parameter in self.encoder.named_parameters() if name in names]
        return [parameter for parameter in (*self.head(task).parameters(), *adapters) if parameter.requires_grad]

    def parameter_groups(self, learning_rate: float, head_learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Split what is trained into AdamW's groups: encoder and heads, with and without weight decay."""
        groups = []
        adapters = self.encoder.adapters
        kept = self.encoder.adapter_names() if adapters is not None and not adapters.method.decays else ()
        spared = {id(parameter) for name, parameter in self.encoder.named_parameters() if name in kept}
        for module, rate in ((self.encoder, learning_rate), (self.heads, head_learning_rate)):
            trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
            decayed = [parameter for parameter in trained if parameter.ndim > 1 and id(parameter) not in spared]
            rest = {id(parameter) for parameter in trained} - {id(parameter) for parameter in decayed}
            for decay, chosen in (
                (weight_decay, decayed),
                (0.0, [parameter for parameter in trained if id(parameter) in rest]),
            ):
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
        return groups


def head_key(task: str) -> str:
    """Make a task's name a module's: nn.Module reserves the dot, and the names of its own attributes (``type``)."""
    key = task.replace(".", ":")
    return f"{key}:" if hasattr(nn.ModuleDict, key) or key == "training" else key
