"""Adapters: a few weights in an encoder's layers that are trained in the place of all of it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtl.errors import ConfigError, EncoderError, PluginError
from mtl.files import write_atomic

ADAPTERS_FILE = "adapters.safetensors"


@dataclass
class Adapter(ABC):
    """A method of adapters. Write one as a dataclass; its fields are its options.

    Args:
        per_task: Whether every task has adapters of its own, which its rows alone go through.
        modules: The parts of a layer that get one, by the ends of their names, such as ``query``. Default: those that are usual
            for the architecture.

    Attributes:
        decays: Whether its matrices are drawn towards zero by the optimiser's weight decay.
        replaces: Whether the old parts are not used any more, so that they are not trained either.
    """

    per_task: bool = False
    modules: tuple[str, ...] = ()

    decays: ClassVar[bool] = True
    replaces: ClassVar[bool] = False

    @abstractmethod
    def put(self, backbone: nn.Module) -> None:
        """Replace parts of ``backbone`` by modules that have the old part within, and at first give what it gives, if they can.

        Raises:
            EncoderError: If it is not known where to put them in this architecture.
        """

    def merged(self, module: nn.Module) -> nn.Module:
        """Return the old part, changed so that it gives what ``module`` gives.

        Raises:
            ConfigError: If there is no such part.
        """
        raise ConfigError(
            f"Adapters of {type(self).__name__} cannot be merged: they are not linear in what they are put on. Export without."
        )

    def before_step(self, modules: Mapping[str, nn.Module]) -> None:
        """Be told that the gradients of a step are there; more may be added. Once for each task, if there is one per task."""

    def after_step(self, modules: Mapping[str, nn.Module], progress: float) -> None:
        """Be told that the optimiser has stepped, its gradients still there, and how much of the budget has been used."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs beside the weights: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""


@dataclass
class OwnAdapter(Adapter):
    """A method of adapters that are each task's own, never shared.

    Args:
        per_task: Always true.
    """

    per_task: bool = True

    def __post_init__(self) -> None:
        if not self.per_task:
            raise ValueError(f"per_task is always true for {type(self).__name__}, which is each task's own; leave it out")


class _Route:
    """Which rows of the pass at work are whose: tasks in order, each with its number of rows."""

    runs: Sequence[tuple[str, int]] = ()


class Routed(nn.Module):
    """A part of a layer with an adapter of each task. The part itself is there once.

    Args:
        base: The part.
        template: The part with an adapter that is not trained yet; a task's own starts as a copy of it.
        route: Says whose the rows are.
    """

    def __init__(self, base: nn.Module, template: nn.Module, route: _Route) -> None:
        super().__init__()
        self.base_layer = base
        self.tasks = nn.ModuleDict()
        self._template, self._route = (template,), route  # in a tuple, so that it is none of the parameters

    def add(self, task: str) -> None:
        """Put in an adapter for a task, if there is none yet."""
        if task in self.tasks:
            return
        base = self.base_layer
        made = copy.deepcopy(self._template[0], {id(base): base})
        for module in list(made.modules()):
            for name in [name for name, child in module._modules.items() if child is base]:
                del module._modules[name]
                object.__setattr__(module, name, base)  # called as before, and not listed among the weights again
        self.tasks[task] = made.to(next(base.parameters()))

    def forward(self, states: Tensor, *arguments: Any, **options: Any) -> Any:
        """Return what each row's own adapter gives, ``[rows, ...]``, or a tuple of such."""
        runs = self._route.runs
        if not runs:
            raise EncoderError(
                "This encoder has adapters of each task (encoder.adapter.per_task), and these texts are of none of its tasks. "
                "Name a task, or train with per_task: false."
            )
        if sum(rows for _, rows in runs) != len(states):
            raise EncoderError(
                "encoder.adapter.per_task: this architecture has no dimension of rows where the adapters are. "
                "Use per_task: false, or name other parts under encoder.adapter.modules."
            )
        if len(runs) == 1:
            return self.tasks[runs[0][0]](states, *arguments, **options)
        sizes = [rows for _, rows in runs]
        given = zip(*(_parted(value, sizes) for value in (states, *arguments)), strict=True)
        named = {name: _parted(value, sizes) for name, value in options.items()}
        found = [
            self.tasks[task](*own, **{name: parts[number] for name, parts in named.items()})
            for number, ((task, _), own) in enumerate(zip(runs, given, strict=True))
        ]
        return tuple(map(_joined, zip(*found, strict=True))) if isinstance(found[0], tuple) else _joined(found)


def _parted(value: Any, sizes: Sequence[int]) -> Sequence[Any]:
    """Return the rows of each part; the same for all, if it has none."""
    has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == sum(sizes)
    return torch.split(value, list(sizes)) if has_rows else [value] * len(sizes)


def _joined(parts: Sequence[Any]) -> Any:
    return torch.cat(tuple(parts)) if isinstance(parts[0], Tensor) else parts[0]


class Adapters:
    """The adapters in an encoder, put there when this is made.

    Args:
        method: What is put there.
        backbone: The ``AutoModel``.

    Raises:
        EncoderError: If the method does not know the architecture.
        PluginError: If the method does not keep its contract.
    """

    def __init__(self, method: Adapter, backbone: nn.Module) -> None:
        self.method, self.backbone, self._route = method, backbone, _Route()
        old = dict(backbone.named_modules())
        trained = {id(parameter): parameter.requires_grad for parameter in backbone.parameters()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same start in every run
            method.put(backbone)
        for parameter in backbone.parameters():
            parameter.requires_grad_(trained.get(id(parameter), parameter.requires_grad))
        #: Place → the part that was there; and where it is in the module that is there now.
        self._bases: dict[str, nn.Module] = {}
        self._inside: dict[str, str] = {}
        for name, base in old.items():
            parent, _, key = name.rpartition(".")
            if not name or (made := getattr(old[parent], key)) is base:
                continue
            inside = next((path for path, module in made.named_modules() if module is base), None)
            if inside is None:
                raise PluginError(f"Adapter {type(method).__name__} has put a module at {name} without the one that was there.")
            if method.per_task:
                made, inside = Routed(base, made, self._route), "base_layer"
                setattr(old[parent], key, made)
            self._bases[name], self._inside[name] = base, inside
            if method.replaces:
                base.requires_grad_(False)
        if not self._bases:
            raise EncoderError(f"encoder.adapter: nothing in a {type(backbone).__name__} has been given an adapter.")

    def add_tasks(self, tasks: Iterable[str]) -> None:
        """Let each task have adapters of its own, if there is one per task."""
        for task in tasks if self.method.per_task else ():
            for routed in self._modules().values():
                routed.add(task)

    def _modules(self, task: str | None = None) -> dict[str, Any]:
        """Return the module at each place; that of one task, where there is one per task."""
        found: dict[str, Any] = {name: self.backbone.get_submodule(name) for name in self._bases}
        return found if task is None else {name: routed.tasks[task] for name, routed in found.items()}

    @property
    def tasks(self) -> list[str]:
        """The tasks that have adapters of their own."""
        return list(next(iter(self._modules().values())).tasks) if self.method.per_task else []

    def names(self, task: str | None = None) -> list[str]:
        """Return the names of what is trained of the adapters in the backbone; of one task's, where there is one per task."""
        found = []
        for place, module in self._modules().items():
            base = {id(parameter) for parameter in self._bases[place].parameters()}
            prefix = "" if task is None else f"tasks.{task}."
            own = {name: p for name, p in module.named_parameters() if id(p) not in base and p.requires_grad}
            found += [f"{place}.{name}" for name in own if name.startswith(prefix)]
        return found

    @contextmanager
    def routing(self, owners: Sequence[str] | None, rows: int) -> Iterator[None]:
        """Send rows through their tasks' adapters for a while.

        Args:
            owners: The task of each row, the rows of a task side by side. ``None`` where there is one adapter for all.
            rows: How many there are; those without an owner go with the last.
        """
        if not owners or not self.method.per_task:
            yield
            return
        runs = [(task, len(list(group))) for task, group in groupby([*owners, *[owners[-1]] * (rows - len(owners))])]
        self._route.runs = runs
        try:
            yield
        finally:
            self._route.runs = ()

    def part(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Part a state of the backbone into that of the plain encoder, under its own names, and that of the adapters."""
        plain, own = {}, {}
        for name, value in state.items():
            place = next((place for place in self._bases if name.startswith(f"{place}.")), None)
            within = None if place is None else f"{place}.{self._inside[place]}."
            if within is None:
                plain[name] = value
            elif name.startswith(within):
                plain[f"{place}.{name.removeprefix(within)}"] = value
            else:
                own[name] = value.detach().cpu().contiguous()
        return plain, own

    def save(self, path: Path) -> None:
        """Write the weights of the adapters alone."""
        _, own = self.part(self.backbone.state_dict())
        write_atomic(path, lambda temporary: save_file(own, temporary))

    def load(self, path: Path) -> None:
        """Take the weights of the adapters from a file that an encoder has written; those of other tasks are left out.

        Raises:
            EncoderError: If the file is missing or torn, or has not the weights of these adapters.
        """
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise EncoderError(f"{path} is missing or torn: {error}") from error
        _, own = self.part(self.backbone.state_dict())
        faults = [name for name, value in own.items() if name not in found or found[name].shape != value.shape]
        if faults:
            raise EncoderError(f"{path} does not fit the adapters: {faults[0]} is missing or of another shape.")
        self.backbone.load_state_dict({name: found[name] for name in own}, strict=False)

    def merge(self, task: str | None = None) -> None:
        """Put the plain parts back, changed so that they give what the adapters give.

        Args:
            task: Whose adapters, where there is one per task.

        Raises:
            ConfigError: If the method cannot be merged.
        """
        for place, module in self._modules(task).items():
            parent, _, key = place.rpartition(".")
            setattr(self.backbone.get_submodule(parent), key, self.method.merged(module))

    def before_step(self) -> None:
        """Tell the method that the gradients of a step are there."""
        for task in self.tasks or (None,):
            self.method.before_step(self._own_modules(task))

    def after_step(self, progress: float) -> None:
        """Tell the method that the optimiser has stepped."""
        for task in self.tasks or (None,):
            self.method.after_step(self._own_modules(task), progress)

    def _own_modules(self, task: str | None) -> dict[str, nn.Module]:
        end = "" if task is None else f".tasks.{task}"
        return {f"{place}{end}": module for place, module in self._modules(task).items()}


def exchange(backbone: nn.Module, name: str, make: Callable[[Any], nn.Module]) -> None:
    """Put what ``make`` makes of a part in its place."""
    parent, _, key = name.rpartition(".")
    setattr(backbone.get_submodule(parent), key, make(backbone.get_submodule(name)))


def ends_with(name: str, ends: Iterable[str]) -> bool:
    """Tell whether a module's name is one of ``ends``, or ends with one after a dot."""
    return any(name == end or name.endswith(f".{end}") for end in ends)


def is_trained(module: nn.Module, *, recurse: bool = True) -> bool:
    """Say whether a module is trained: a weight of it is, or there are to be adapters of each task in it."""
    routed = (isinstance(part, Routed) for part in (module.modules() if recurse else [module]))
    return any(routed) or any(parameter.requires_grad for parameter in module.parameters(recurse))
