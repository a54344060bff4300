"""The shared encoder."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtl.config import EncoderConfig
from mtl.data.tokenizer import Tokenizer
from mtl.errors import ConfigError, EncoderError
from mtl.model.adapters import ADAPTERS_FILE, Adapter, Adapters, Routed, is_trained
from mtl.model.checkpointing import Recompute, recompute_layers
from mtl.model.compiling import Compiled
from mtl.model.encoded import POOLING, Encoded, Layers, by_length
from mtl.model.kept_states import KeptStates, key_of
from mtl.model.parts import layers_of, starting_from, states_entering
from mtl.model.precision import Precision, computing, in_bfloat16, round_shape
from mtl.model.pretrained import load_pretrained, positions_of
from mtl.model.used_tokens import UsedTokens

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
_LOG = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A pretrained Transformer with its tokenizer and pooling.

    Args:
        backbone: The ``AutoModel``, without pooler.
        tokenizer: Its tokenizer.
        pooling: How a sequence becomes one vector.
        precision: ``bf16`` computes in bfloat16 by autocast; parameters and what comes out stay float32.
        token_dropout: Share of tokens that are hidden in training.
        checkpointing: Whether layers are computed again on the way back.
        mixing: Whether heads read a mix of all layers.

    Attributes:
        frozen_depth: How many layers are frozen, where what leaves them is kept; else 0.
        adapters: The adapters in its layers, if it has any.
        parted: The :class:`mtl.model.gradient_rows.GradientRows` that parts a pass's gradients by task, while one does.
        origin: The :class:`mtl.model.origin.Origin` that it was loaded from, if it is a registered one.
    """

    def __init__(
        self,
        backbone: Any,
        tokenizer: Tokenizer,
        pooling: Literal["mean", "cls", "max"],
        precision: Precision = "fp32",
        token_dropout: float = 0.0,
        *,
        checkpointing: bool = False,
        mixing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.precision = precision
        self.token_dropout = token_dropout
        self.mixing = mixing
        self._kept: KeptStates | None = None
        self._frozen: list[tuple[nn.Module, str, nn.Parameter]] = []
        self.frozen_depth = 0
        self._recomputes: list[Recompute] = recompute_layers(list(self.layers()), precision) if checkpointing else []
        self._compiled: Compiled | None = None
        self.adapters: Adapters | None = None
        self.parted: Any = None
        self.origin: Any = None

    def compile_passes(self) -> None:
        """Compile passes of the whole encoder; those in parts, as of inner loops, run as before."""
        self._compiled = Compiled(self.backbone)

    @property
    def recomputing(self) -> bool:
        """Whether a layer is being computed again on the way back."""
        return any(layer.again for layer in self._recomputes)

    @property
    def hidden(self) -> int:
        """Size of a state."""
        return int(self.backbone.config.hidden_size)

    @property
    def attention(self) -> str:
        """The attention path in use."""
        return str(self.backbone.config._attn_implementation)

    def put(self, method: Adapter) -> None:
        """Put adapters into the layers; they change nothing until they are trained."""
        self.adapters = Adapters(method, self.backbone)

    def with_adapters(self, method: Adapter) -> Encoder:
        """Return a copy with fresh adapters.

        Raises:
            ConfigError: If there are adapters in it already.
        """
        if self.adapters is not None:
            raise ConfigError(
                f"The encoder has adapters of {type(self.adapters.method).__name__} already, and {type(method).__name__} cannot "
                "be put on them. Take the adaptation 'adapter', which trains those that are there."
            )
        made = self.copy()
        made.put(method)
        return made

    def merge_adapters(self, task: str | None = None) -> None:
        """Fold the adapters, if there are any, into the weights; the encoder gives what it gave.

        Args:
            task: Whose adapters, where there is one per task.

        Raises:
            ConfigError: If the method cannot be merged.
        """
        if self.adapters is not None:
            self.adapters.merge(task)
            self.adapters = None

    @property
    def per_task(self) -> bool:
        """Whether every task has adapters of its own, so that a sequence is encoded for one task."""
        return self.adapters is not None and self.adapters.method.per_task

    def adapter_names(self, task: str | None = None) -> frozenset[str]:
        """Return the names of the adapters' parameters; those of one task, where there is one per task."""
        return frozenset() if self.adapters is None else frozenset(f"backbone.{name}" for name in self.adapters.names(task))

    def shared(self) -> dict[str, nn.Parameter]:
        """Return what is trained for all tasks, by name."""
        names = self.adapter_names() if self.per_task else ()
        return {name: p for name, p in self.named_parameters() if p.requires_grad and name not in names}

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        states: Tensor | None = None,
        depth: int = 0,
        owners: Sequence[str] | None = None,
    ) -> Encoded:
        """Encode a batch in one pass, or the rest of one.

        Args:
            inputs: See :class:`mtl.data.batches.Batch`.
            states: What :meth:`trunk` gave for them; only the layers from ``depth`` on are run.
            depth: Where the trunk ended.
            owners: The task of each sequence, those of a task side by side, where adapters or gradients are each task's own.
        """
        mask = inputs["attention_mask"]
        if states is None:
            states, depth = self._kept_of(inputs), self.frozen_depth
        seen = self._hide(mask)
        inputs = {**inputs, "attention_mask": seen}
        if states is None or depth < len(self.layers()):

            def above(part: Mapping[str, Tensor], lower: Tensor | None, rows: Tensor | None) -> Tensor:
                theirs = owners if owners is None or rows is None else [owners[row] for row in rows.tolist()]
                return self._above(part, lower, depth, theirs)

            states = by_length(mask, inputs, states, self.cost_of_a_pass(mask), above)
        pool, layers = POOLING[self.pooling], None
        if self.mixing:
            layers, states = Layers(states, seen, pool), states[..., -self.hidden :]
        table = self.backbone.get_input_embeddings()
        embeddings = None if isinstance(table, UsedTokens) else table.weight
        return Encoded(states, mask, pool(states, seen), embeddings=embeddings, layers=layers)

    def cost_of_a_pass(self, mask: Tensor) -> int:
        """Return what a pass takes beside its tokens, in tokens: starting operations, reading weights, adding up gradients."""
        return 512 if in_bfloat16(self.precision, mask.device) else 128

    def _hide(self, mask: Tensor) -> Tensor:
        """Return a mask without the tokens that are hidden this time; the first is never among them."""
        if not (self.training and self.token_dropout):
            return mask
        kept = torch.rand(mask.shape, device=mask.device) >= self.token_dropout
        kept[:, 0] = True
        return mask * kept

    def trunk(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """Return the states that enter layer ``depth``, or leave the last one, ``[sequences, tokens, hidden]``."""
        lower = self._kept_of(inputs) if depth >= self.frozen_depth else None
        if lower is not None and depth == self.frozen_depth:
            return lower

        def below(part: Mapping[str, Tensor], states: Tensor | None, _: Tensor | None) -> Tensor:
            rows, tokens = part["attention_mask"].shape
            part, states = round_shape(part, states, self.precision)
            with nullcontext() if states is None else self._cut(states, self.frozen_depth):
                return self._below(part, depth)[:rows, :tokens]

        mask = inputs["attention_mask"]
        return by_length(mask, inputs, lower, self.cost_of_a_pass(mask), below)

    def keep_frozen(self, folder: Path, most_bytes: int) -> None:
        """Keep on disk what leaves the frozen layers, so that a sequence goes through them once. They have no dropout then.

        Args:
            folder: Folder of all that is kept.
            most_bytes: The most that is kept of these layers.

        Raises:
            EncoderError: If no layer is frozen, or the folder cannot be used.
        """
        trained = [number for number, layer in enumerate(self.layers()) if is_trained(layer)]
        self.frozen_depth = depth = trained[0] if trained else len(self.layers())
        above = {id(module) for layer in self.layers()[depth:] for module in layer.modules()}
        below = [(name, module) for name, module in self.backbone.named_modules() if id(module) not in above]
        named = {
            f"{place}.{name}": (module, name, parameter)
            for place, module in below
            for name, parameter in module._parameters.items()
            if parameter is not None
        }
        if not depth or any(is_trained(module, recurse=False) for _, module in below):
            raise EncoderError(
                "encoder.cache keeps what leaves frozen layers; none is frozen. Set encoder.freeze to their number; "
                "adapters have to be above them."
            )
        self._frozen = list(named.values())
        device = self._frozen[0][2].device
        how = (depth, device.type, in_bfloat16(self.precision, device), self.attention, type(self.backbone).__name__)
        key = key_of({name: parameter for name, (_, _, parameter) in named.items()}, *how)
        self._kept = KeptStates(folder, key, self.hidden, most_bytes)

    def _kept_of(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return what leaves the frozen layers, if that is kept and no function has put other parameters there."""
        if self._kept is None or any(module._parameters.get(name) is not own for module, name, own in self._frozen):
            return None
        return self._kept(inputs, self._still)

    def _still(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the frozen layers without dropout and without a gradient."""
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                return self._below(inputs, self.frozen_depth)
        finally:
            self.backbone.train(training)

    def _below(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        if depth == len(self.layers()):
            return self._run(inputs)
        with self._in_parts():
            states = states_entering(self.backbone, depth, lambda: self._run(inputs))
        return states.float() if states.dtype is torch.bfloat16 else states

    def _above(
        self, inputs: Mapping[str, Tensor], states: Tensor | None, depth: int, owners: Sequence[str] | None = None
    ) -> Tensor:
        rows, tokens = inputs["attention_mask"].shape
        inputs, states = round_shape(inputs, states, self.precision)
        sequences = len(inputs["attention_mask"])
        if self.parted is not None and owners is not None:
            self.parted.route(owners, sequences)
        routing = nullcontext() if self.adapters is None else self.adapters.routing(owners, sequences)
        with routing, nullcontext() if states is None else self._cut(states, depth):
            return self._run(inputs)[:rows, :tokens]

    def _run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        mask = inputs["attention_mask"]
        if self._compiled is not None:
            self._compiled(mask)
        with computing(self.precision, mask.device), self._compiled.explained() if self._compiled else nullcontext():
            found = self.backbone(**inputs, output_hidden_states=self.mixing)
        states: Tensor = found.last_hidden_state
        if self.mixing:
            states = torch.cat([*found.hidden_states[:-1], states], -1)
        return states.float() if states.dtype is torch.bfloat16 else states  # a model in float64 stays so

    @contextmanager
    def _cut(self, states: Tensor, depth: int) -> Iterator[None]:
        """Let layer ``depth`` start from ``states``, and nothing below it be computed."""
        with starting_from(self.backbone, depth, states), self._in_parts():
            yield

    def _in_parts(self) -> AbstractContextManager[None]:
        return self._compiled.in_parts() if self._compiled else nullcontext()

    def freeze(self, what: str | int) -> None:
        """Stop training the embeddings, the embeddings and the first N layers, or everything.

        Raises:
            EncoderError: If the encoder has fewer layers, or its parts cannot be told apart.
        """
        if what == "none":
            return
        if what == "all":
            self.backbone.requires_grad_(False)
            return
        embeddings = getattr(self.backbone, "embeddings", None) or self.backbone.get_input_embeddings()
        embeddings.requires_grad_(False)
        if isinstance(what, int):
            layers = self.layers()
            if what > len(layers):
                raise EncoderError(f"encoder.freeze is {what}, but the encoder has {len(layers)} layers.")
            layers[:what].requires_grad_(False)

    def layers(self) -> nn.ModuleList:
        """Return the Transformer layers, lowest first.

        Raises:
            EncoderError: If they are not found in this architecture.
        """
        return layers_of(self.backbone)

    def counted(self) -> list[nn.Module]:
        """Return a module of every layer that runs when the layer is computed, and not when it is left out.

        All of the encoder, where its layers are not found or are compiled. Those whose states are kept run once, and are not
        counted.
        """
        if self._compiled is not None:
            return [self._compiled]
        try:
            parts = (nn.Linear, Routed)
            return [next(module for module in layer.modules() if isinstance(module, parts)) for layer in self.layers()]
        except (EncoderError, StopIteration):
            return [self.backbone]

    def copy(self) -> Encoder:
        """Return an encoder with weights of its own and the same tokenizer."""
        backbone, adapters = copy.deepcopy((self.backbone, self.adapters))
        made = Encoder(
            backbone,
            self.tokenizer,
            self.pooling,
            self.precision,
            self.token_dropout,
            checkpointing=bool(self._recomputes),
            mixing=self.mixing,
        )
        made.adapters, made.origin = adapters, self.origin
        return made

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer in the Hub's layout; adapters have a file of their own."""
        if self.adapters is None:
            self.backbone.save_pretrained(folder)
        else:
            self.adapters.save(folder / ADAPTERS_FILE)
            self.backbone.save_pretrained(folder, state_dict=self.adapters.part(self.backbone.state_dict())[0])
        # What was last asked of the tokenizer is left out: it differs when tokens came from the cache.
        self.tokenizer.backend.backend_tokenizer.no_truncation()
        self.tokenizer.backend.backend_tokenizer.no_padding()
        self.tokenizer.backend.save_pretrained(folder)


def load_encoder(
    config: EncoderConfig,
    place: str | Path,
    *,
    attention: str | None = None,
    cache: Path | None = None,
    known: Sequence[str] = (),
) -> Encoder:
    """Load an encoder from a local folder or the Hub, in float32 and without running code from it.

    Args:
        config: What the experiment says of it.
        place: The folder or Hub id that ``config.name`` stands for.
        attention: The attention path to use. Default: what the configuration says; for ``auto`` the fastest that the
            architecture has.
        cache: Folder of the token cache.
        known: Registered names, to suggest from.

    Raises:
        EncoderError: If it is not there, cannot be reached, or is not an encoder of text.
    """
    backbone, tokenizer = load_pretrained(config, place, attention, known)
    limit = positions_of(backbone) or config.max_length
    if config.max_length > limit:
        raise EncoderError(f"encoder.max_length is {config.max_length}, but {config.name!r} reads at most {limit} tokens.")
    segments = "token_type_ids" in inspect.signature(backbone.forward).parameters
    reader = Tokenizer(tokenizer, config.max_length, cache, segments=segments)
    encoder = Encoder(
        backbone,
        reader,
        config.pooling,
        config.precision,
        config.token_dropout,
        checkpointing=config.checkpointing,
        mixing=config.mix,
    )
    encoder.freeze(config.freeze)
    _LOG.info("encoder %s: %s attention", config.name, encoder.attention)
    return encoder
