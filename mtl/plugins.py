"""Finding, loading and calling plugins: a fresh manager for every run."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from mtl import hookspecs
from mtl.errors import DuplicateNameError, MTLError, PluginError, UnknownNameError, did_you_mean
from mtl.files import why_no_file
from mtl.metrics import Metric
from mtl.registry import Registry, must_subclass
from mtl.task import Task

#: The plugins that come with mtl. They use what any plugin may use.
BUNDLED = ("mtl_tasks", "mtl_plugins")
ENTRY_POINT_GROUP = "mtl"
_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("mtl_"))


@dataclass(frozen=True)
class PluginInfo:
    """What is known of a loaded plugin, or of one that failed.

    Attributes:
        name: Its name among the plugins.
        distribution: The installed package and version that brought it, or how it was named.
        hooks: The hooks it implements.
        failure: Why it is not in use, if so.
    """

    name: str
    distribution: str
    hooks: tuple[str, ...] = ()
    failure: str = ""

    def __str__(self) -> str:
        return f"{self.name!r} ({self.distribution})"


def _lazily(module: str, name: str) -> Callable[[str, Any], str | None]:
    return must_subclass(lambda: getattr(import_module(module), name))


def _must_be_callable(name: str, thing: Any) -> str | None:
    return None if callable(thing) else f"{thing!r} is not callable"


@dataclass
class Plugins:
    """The plugins of one run and everything they have registered."""

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("mtl"))
    infos: dict[str, PluginInfo] = field(default_factory=dict)
    tasks: Registry = field(default_factory=lambda: Registry("task"))
    kinds: Registry = field(default_factory=lambda: Registry("kind", _lazily("mtl.kind", "TaskKind")))
    strategies: Registry = field(default_factory=lambda: Registry("strategy", _lazily("mtl.training.strategy", "Strategy")))
    weightings: Registry = field(default_factory=lambda: Registry("weighting", _lazily("mtl.training.weighting", "Weighting")))
    aggregations: Registry = field(
        default_factory=lambda: Registry("aggregation", _lazily("mtl.training.aggregation", "Aggregation"))
    )
    samplers: Registry = field(default_factory=lambda: Registry("sampler", _lazily("mtl.training.sampler", "Sampler")))
    adaptations: Registry = field(
        default_factory=lambda: Registry("adaptation", _lazily("mtl.transfer.adaptation", "Adaptation"))
    )
    adapters: Registry = field(default_factory=lambda: Registry("adapter", _lazily("mtl.model.adapters", "Adapter")))
    protocols: Registry = field(default_factory=lambda: Registry("protocol", _lazily("mtl.transfer.protocol", "Protocol")))
    backends: Registry = field(default_factory=lambda: Registry("backend", _lazily("mtl.grid.backend", "Backend")))
    encoders: Registry = field(default_factory=lambda: Registry("encoder", _must_be_callable))
    metrics: Registry = field(default_factory=lambda: Registry("metric"))
    experiments: Registry = field(default_factory=lambda: Registry("experiment"))

    @property
    def failures(self) -> list[PluginInfo]:
        """The plugins that are left out because they failed."""
        return [info for info in self.infos.values() if info.failure]

    def metrics_of(self, kind: str) -> list[Metric]:
        """Return the metrics that plugins have registered for a kind."""
        registered = [self.metrics.get(name) for name in self.metrics]
        return [metric for metric, kinds in registered if kind in kinds]

    def registered_by(self, info: PluginInfo) -> dict[str, list[str]]:
        """Return the names that a plugin has registered, by sort."""
        registries = (*self._registries().values(), self.tasks, self.metrics)
        found = {registry.what: [name for name in registry if registry.origin(name) == str(info)] for registry in registries}
        return {what: names for what, names in found.items() if names}

    def locate_encoder(self, name: str) -> Path:
        """Return the folder of a registered encoder.

        Raises:
            UnknownNameError: If nothing is registered under the name.
            PluginError: If the plugin's function raises.
        """
        locate = self.encoders.get(name)
        try:
            return Path(locate())
        except MTLError:
            raise
        except Exception as error:
            origin = self.encoders.origin(name)
            raise PluginError(f"Plugin {origin} cannot locate its encoder {name!r}: {type(error).__name__}: {error}") from error

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a life-cycle hook of every plugin.

        Raises:
            PluginError: If a plugin raises; names plugin, distribution and hook.
        """
        try:
            getattr(self.manager.hook, hook)(**arguments)
        except MTLError:
            raise
        except Exception as error:
            culprit = self._culprit(hook, error)
            raise PluginError(f"Plugin {culprit} raised in hook {hook}: {type(error).__name__}: {error}") from error

    def _culprit(self, hook: str, error: Exception) -> str:
        codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            if getattr(implementation.function, "__code__", None) in codes:
                return str(self.infos[implementation.plugin_name])
        return "unknown"

    def _registries(self) -> dict[str, Registry]:
        return {
            "mtl_register_kinds": self.kinds,
            "mtl_register_strategies": self.strategies,
            "mtl_register_weightings": self.weightings,
            "mtl_register_aggregations": self.aggregations,
            "mtl_register_samplers": self.samplers,
            "mtl_register_adaptations": self.adaptations,
            "mtl_register_adapters": self.adapters,
            "mtl_register_protocols": self.protocols,
            "mtl_register_backends": self.backends,
            "mtl_register_encoders": self.encoders,
            "mtl_register_experiments": self.experiments,
        }

    def add(self, name: str, distribution: str, load: Callable[[], Any]) -> None:
        """Load one plugin and let it register. One that fails is left out and remembered with its failure.

        Raises:
            PluginError: If another plugin has the same name.
            DuplicateNameError: If it registers a name that another plugin has.
        """
        if name in self.infos:
            raise PluginError(
                f"Two plugins are called {name!r}: one from {self.infos[name].distribution}, one from {distribution}. "
                "Rename one of the two, or leave one out."
            )
        info = PluginInfo(name, distribution)
        self.infos[name] = info
        try:
            plugin = load()
            self.manager.register(plugin, name)
            callers = self.manager.get_hookcallers(plugin) or []
            for caller in callers:
                if not caller.has_spec():
                    near = did_you_mean(caller.name, _HOOKS)
                    raise PluginError(
                        f"there is no hook {caller.name!r}. {near} There are: {', '.join(_HOOKS)}".replace("  ", " ")
                    )
            if not callers:
                raise PluginError("it implements no hook. Mark its functions, whose names begin with mtl_, with @mtl.hookimpl")
            self.infos[name] = PluginInfo(name, distribution, tuple(sorted(caller.name for caller in callers)))
            self._register(name, plugin)
        except DuplicateNameError:
            raise
        except (Exception, SystemExit) as error:
            self._leave_out(info, error)

    def _leave_out(self, info: PluginInfo, error: BaseException) -> None:
        if self.manager.has_plugin(info.name):
            self.manager.unregister(name=info.name)
        for registry in (*self._registries().values(), self.tasks, self.metrics):
            registry.drop_origin(str(info))
            registry.hint = (registry.hint + f" Plugin {info} failed to load.").strip()
        at = _hook_in(error)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}" if not isinstance(error, MTLError) else str(error)
        self.infos[info.name] = PluginInfo(info.name, info.distribution, failure=f"in {at}: {reason}" if at else reason)

    def _register(self, name: str, plugin: Any) -> None:
        origin = str(self.infos[name])
        others = [other for other in self.manager.get_plugins() if other is not plugin]

        def call(hook: str, register: Callable[..., None]) -> None:
            self.manager.subset_hook_caller(hook, others)(register=register)

        def register_task(task: Task) -> None:
            if not isinstance(task, Task):
                raise PluginError(f"register() takes a mtl.Task, not {type(task).__name__}")
            self.tasks.register(task.name, task, origin=origin)

        def register_metric(metric: Metric, kinds: Sequence[str]) -> None:
            if not isinstance(metric, Metric):
                raise PluginError(f"register() takes a mtl.Metric, not {type(metric).__name__}")
            self.metrics.register(metric.name, (metric, tuple(kinds)), origin=origin)

        for hook, registry in self._registries().items():
            call(hook, lambda key, thing, registry=registry: registry.register(key, thing, origin=origin))
        call("mtl_register_tasks", register_task)
        call("mtl_register_metrics", register_metric)


def load_plugins(extra: Sequence[str] = ()) -> Plugins:
    """Load the bundled plugins, installed ones, those in ``MTL_PLUGINS`` and ``extra``, but not those in ``MTL_NO_PLUGINS``.

    Args:
        extra: ``module:object``, ``module`` or ``file.py:object`` for each plugin that is not installed.

    Raises:
        PluginError: If two plugins have one name, or one that was asked for by name cannot be loaded.
        DuplicateNameError: If two plugins register the same thing.
        UnknownNameError: If there is no plugin of a name that is to be left out.
    """
    plugins, left_out = Plugins(), _listed("MTL_NO_PLUGINS")
    plugins.manager.add_hookspecs(hookspecs)
    for name in (name for name in BUNDLED if name not in left_out):
        plugins.add(name, "bundled with mtl", lambda name=name: import_module(name))  # type: ignore[misc]
    installed = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    for point in (point for point in installed if point.name not in left_out):
        plugins.add(point.name, _distribution(point), point.load)
    named = [*_listed("MTL_PLUGINS"), *extra]
    for name in left_out:
        if name not in (known := [*BUNDLED, *(point.name for point in installed), *named]):
            raise UnknownNameError("plugin to leave out", name, known)
    there = {*(point.value for point in installed), *left_out}  # what is installed may be named too
    for reference in dict.fromkeys(name for name in named if name not in there):
        plugins.add(reference, "named by the user", lambda reference=reference: _load(reference))  # type: ignore[misc]
        if failure := plugins.infos[reference].failure:
            end = "" if failure.endswith((".", "?")) else "."
            raise PluginError(f"Plugin {reference!r} cannot be loaded: {failure}{end}")
    return plugins


def _listed(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _load(reference: str) -> Any:
    """Import ``module``, ``module:object`` or ``path/to/file.py[:object]``."""
    target, _, attribute = reference.strip().partition(":")
    if not target:
        raise PluginError("write module, module:object or file.py:object.")
    path: Path | None = None
    if target.endswith(".py"):
        path = Path(target).resolve()
        if not path.is_file():
            why = why_no_file(path)
            raise PluginError(why[0].lower() + why[1:])
        sys.path.insert(0, str(path.parent))
        target = path.stem
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        thing: Any = import_module(target)
    finally:
        sys.path.pop(0)
    if path is not None and (found := Path(getattr(thing, "__file__", None) or "").resolve()) != path:
        raise PluginError(f"there is already a module called {target!r}, from {found}. Rename the file {path}")
    for part in filter(None, attribute.split(".")):
        if not hasattr(thing, part):
            near = did_you_mean(part, [name for name in vars(thing) if not name.startswith("_")])
            raise PluginError(f"{target} has no {part!r}. {near}".rstrip())
        thing = getattr(thing, part)
    return thing


def _hook_in(error: BaseException) -> str:
    """Return the name of the hook that was running when ``error`` was raised."""
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in names if name in _HOOKS), "")
