"""Plugins are found wherever they are named, and one that fails is told apart from the others."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mtl
import mtl.plugins
from mtl.errors import ConfigError, DuplicateNameError, PluginError, UnknownNameError
from mtl.plugins import Plugins, load_plugins
from mtl_plugins.uniform import Uniform

SOURCE = """
import mtl
from mtl_plugins.uniform import Uniform

class Plugin:
    @mtl.hookimpl
    def mtl_register_samplers(self, register):
        register("{name}", Uniform)

plugin = Plugin()

@mtl.hookimpl
def mtl_register_samplers(register):
    register("{name}-of-module", Uniform)
"""


class Plugin:
    """A plugin with the given hooks."""

    def __init__(self, **hooks: Any) -> None:
        vars(self).update(hooks)


def implementing(hook: str, function: Any) -> Any:
    """Make a plugin of one hook."""
    return Plugin(**{hook: mtl.hookimpl(function)})


def registering(name: str, thing: Any = Uniform, hook: str = "mtl_register_samplers") -> Any:
    return implementing(hook, lambda register: register(name, thing))


class Point:
    """An entry point of an installed distribution."""

    def __init__(self, name: str, plugin: Any, version: str = "1.0") -> None:
        self.name, self.value, self._plugin = name, f"{name}_module", plugin
        self.dist = SimpleNamespace(name=f"{name}-package", version=version)

    def load(self) -> Any:
        if isinstance(self._plugin, BaseException):
            raise self._plugin
        return self._plugin


@pytest.fixture
def install(monkeypatch):
    """Pretend that plugins are installed, each by its entry point."""

    def install(**plugins: Any) -> None:
        points = [Point(name, plugin) for name, plugin in plugins.items()]
        monkeypatch.setattr(mtl.plugins, "entry_points", lambda group: points)

    return install


@pytest.fixture
def write_plugin(tmp_path):
    """Write a plugin's file; its name is its own in the whole process."""

    def write(name: str, text: str = SOURCE) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace("{name}", name))
        return path

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_every_load_has_a_manager_of_its_own():
    first, second = load_plugins(), load_plugins()
    assert first.manager is not second.manager
    first.samplers.register("mine", Uniform, origin="test")
    assert "mine" not in second.samplers


def test_the_bundled_plugins_are_loaded_and_say_so():
    infos = load_plugins().infos
    assert {name: infos[name].distribution for name in ("mtl_tasks", "mtl_plugins")} == dict.fromkeys(
        ("mtl_tasks", "mtl_plugins"), "bundled with mtl"
    )
    assert "mtl_register_kinds" in infos["mtl_tasks"].hooks


def test_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    # What pip leaves in site-packages, without pip.
    about = tmp_path / "sampler_kit-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sampler-kit\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text("[mtl]\nkit = sampler_kit_module:plugin\n")
    (tmp_path / "sampler_kit_module.py").write_text(SOURCE.replace("{name}", "kit"))
    monkeypatch.syspath_prepend(tmp_path)
    plugins = load_plugins()
    assert str(plugins.infos["kit"]) == "'kit' (sampler-kit 1.5)"
    assert plugins.samplers.get("kit") is Uniform
    assert plugins.samplers.origin("kit") == "'kit' (sampler-kit 1.5)"


def test_a_plugin_is_named_as_module_and_object(write_plugin, tmp_path, monkeypatch):
    write_plugin("by_module")
    monkeypatch.chdir(tmp_path)  # the folder of the command is looked in
    plugins = load_plugins(["by_module:plugin"])
    assert "by_module" in plugins.samplers
    assert "by_module-of-module" not in plugins.samplers
    assert str(tmp_path) not in sys.path


def test_a_plugin_is_named_as_file_and_object(write_plugin):
    path = write_plugin("by_file")
    assert "by_file" in load_plugins([f"{path}:plugin"]).samplers


def test_a_file_alone_is_a_plugin_too(write_plugin):
    path = write_plugin("by_file_alone")
    assert "by_file_alone-of-module" in load_plugins([str(path)]).samplers


def test_plugins_are_named_in_the_environment(write_plugin, monkeypatch):
    one, two = write_plugin("environment_one"), write_plugin("environment_two")
    monkeypatch.setenv("MTL_PLUGINS", f" {one}:plugin , {two}:plugin,")
    samplers = load_plugins([f"{two}:plugin"]).samplers  # named twice, loaded once
    assert {"environment_one", "environment_two"} <= set(samplers)


def test_a_plugin_that_cannot_be_imported_is_left_out_and_the_others_go_on(install):
    install(broken=ImportError("no module named 'left_pad'"), sound=registering("sound"))
    plugins = load_plugins()
    (failed,) = plugins.failures
    assert str(failed) == "'broken' (broken-package 1.0)"
    assert failed.failure == "ImportError: no module named 'left_pad'"
    assert {"sound", "uniform"} <= set(plugins.samplers)


def test_a_plugin_that_exits_when_it_is_imported_is_left_out(install):
    install(quitter=SystemExit(3), sound=registering("sound"))
    plugins = load_plugins()
    assert plugins.infos["quitter"].failure == "SystemExit: 3"
    assert "sound" in plugins.samplers


def test_what_a_plugin_registered_before_it_failed_is_gone(install):
    def fail(register):
        raise ValueError("disk\n on fire")

    broken = Plugin(
        mtl_register_kinds=mtl.hookimpl(lambda register: register("half-kind", "nowhere:Kind")),
        mtl_register_tasks=mtl.hookimpl(lambda register: register(mtl.Task(name="half-task", kind="half-kind", data=[]))),
        mtl_register_metrics=mtl.hookimpl(_named("mtl_register_metrics", fail)),
        mtl_step_end=mtl.hookimpl(lambda step: pytest.fail("a plugin that was left out is called")),
    )
    install(broken=broken, sound=registering("sound"))
    plugins = load_plugins()
    assert plugins.infos["broken"].failure == "in mtl_register_metrics: ValueError: disk on fire"
    assert "half-kind" not in plugins.kinds
    assert "half-task" not in plugins.tasks
    assert not plugins.registered_by(plugins.infos["broken"])
    assert not plugins.manager.has_plugin("broken")
    assert "sound" in plugins.samplers
    plugins.call("mtl_step_end", run=None, group="", step=1, report=None)


def _named(name: str, function: Any) -> Any:
    """Give a function the name that it has in a real plugin, where it is defined under it."""
    function.__code__ = function.__code__.replace(co_name=name)
    return function


def test_an_unknown_name_mentions_the_plugin_that_failed(install):
    install(broken=ImportError("no"))
    with pytest.raises(
        UnknownNameError, match=r"Unknown kind 'poetry'.*Plugin 'broken' \(broken-package 1\.0\) failed to load\.$"
    ):
        load_plugins().kinds.get("poetry")


def test_a_plugin_that_was_asked_for_by_name_must_load(write_plugin):
    path = write_plugin("asked_for", "raise RuntimeError('not today')")
    with pytest.raises(PluginError, match=r"Plugin '.*asked_for\.py' cannot be loaded: RuntimeError: not today"):
        load_plugins([str(path)])


def test_a_plugin_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PluginError, match=r"cannot be loaded: there is no file .*nothing\.py"):
        load_plugins([f"{tmp_path}/nothing.py:plugin"])


def test_an_object_that_is_not_there_gets_the_nearest(write_plugin):
    path = write_plugin("near")
    with pytest.raises(PluginError, match=r"near has no 'plugn'\. Did you mean 'plugin'\?"):
        load_plugins([f"{path}:plugn"])


def test_a_file_with_the_name_of_another_module_is_refused(write_plugin):
    path = write_plugin("json", SOURCE)
    before = sys.modules["json"]
    try:
        with pytest.raises(
            PluginError, match=r"there is already a module called 'json', from .*json/__init__\.py\. Rename the file"
        ):
            load_plugins([f"{path}:plugin"])
    finally:
        sys.modules["json"] = before


def test_a_duplicate_names_both_plugins(install):
    install(one=registering("twice"), two=registering("twice"))
    told = r"sampler 'twice' is registered twice, by 'one' \(one-package 1\.0\) and by 'two' \(two-package 1\.0\)\. Rename"
    with pytest.raises(DuplicateNameError, match=told):
        load_plugins()


def test_a_bundled_name_cannot_be_taken(install):
    install(thief=registering("uniform"))
    with pytest.raises(DuplicateNameError, match=r"by 'mtl_plugins' \(bundled with mtl\) and by 'thief'"):
        load_plugins()


def test_two_plugins_of_one_name_are_refused():
    plugins = Plugins()
    plugins.manager.add_hookspecs(mtl.plugins.hookspecs)
    plugins.add("twin", "alpha 1", lambda: registering("a"))
    with pytest.raises(PluginError, match=r"Two plugins are called 'twin': one from alpha 1, one from beta 2\. Rename"):
        plugins.add("twin", "beta 2", lambda: registering("b"))


def test_a_near_kind_is_suggested():
    with pytest.raises(UnknownNameError, match="Did you mean 'classification'"):
        load_plugins().kinds.get("clasification")


@pytest.mark.parametrize(
    ("plugin", "fault"),
    [
        (implementing("mtl_step_end", lambda stepp: None), r"mtl_step_end.*stepp"),
        (implementing("mtl_register_taskz", lambda register: None), r"there is no hook 'mtl_register_taskz'"),
        (registering("not a task", 1, "mtl_register_tasks"), r"takes 1 positional argument but 2 were given"),
        (implementing("mtl_register_tasks", lambda register: register({"name": "a"})), r"takes a mtl\.Task, not dict"),
        (
            implementing("mtl_register_metrics", lambda register: register(max, ["regression"])),
            r"takes a mtl\.Metric, not builtin",
        ),
        (registering(""), r"under ''; a name is a non-empty string"),
        (registering(None), r"under None; a name is a non-empty string"),
        (Plugin(mtl_register_tasks=lambda register: None), r"implements no hook\. Mark .* with @mtl\.hookimpl"),
        (None, r"implements no hook|None"),
    ],
)
def test_a_plugin_that_lies_when_it_is_loaded_is_left_out(install, plugin, fault):
    install(liar=plugin, sound=registering("sound"))
    plugins = load_plugins()
    assert [info.name for info in plugins.failures] == ["liar"]
    assert re.search(fault, plugins.infos["liar"].failure)
    assert "sound" in plugins.samplers


@pytest.mark.parametrize(
    ("thing", "fault"),
    [
        (dict, r"dict is not a subclass of mtl\.kind\.TaskKind"),
        (
            type("Stub", (mtl.TaskKind,), {}),
            "Stub does not define decode, fit, gold, head, load_state, loss, metrics, requests, roles, targets, trivial",
        ),
        (7, r"7 is not a subclass of mtl\.kind\.TaskKind"),
    ],
)
def test_a_kind_that_is_none_is_refused_when_it_is_used(install, thing, fault):
    install(liar=registering("fake", thing, "mtl_register_kinds"))
    with pytest.raises(PluginError, match=rf"Plugin 'liar' \(liar-package 1\.0\) registered the kind 'fake', but {fault}"):
        load_plugins().kinds.get("fake")


def test_an_encoder_that_cannot_be_called_is_refused(install):
    install(liar=registering("fake", 7, "mtl_register_encoders"))
    with pytest.raises(PluginError, match=r"registered the encoder 'fake', but 7 is not callable"):
        load_plugins().encoders.get("fake")


def test_a_plugin_s_own_mtl_error_passes_as_it_is(install):
    def stop(step):
        raise ConfigError("set patience")

    install(strict=implementing("mtl_step_end", stop))
    with pytest.raises(ConfigError, match="^set patience$"):
        load_plugins().call("mtl_step_end", run=None, group="", step=1, report=None)


def test_every_plugin_is_told_of_a_step(install):
    told = []
    install(
        one=implementing("mtl_step_end", lambda step: told.append(("one", step))),
        two=implementing("mtl_step_end", lambda step: told.append(("two", step))),
    )
    load_plugins().call("mtl_step_end", run=None, group="", step=3, report=None)
    assert sorted(told) == [("one", 3), ("two", 3)]


def test_a_plugin_can_be_left_out_by_its_name(install, monkeypatch):
    install(kit=registering("mine"), other=registering("yours"))
    monkeypatch.setenv("MTL_NO_PLUGINS", "kit")
    loaded = load_plugins()
    assert "kit" not in loaded.infos
    assert "yours" in loaded.samplers
    assert "mine" not in loaded.samplers


def test_what_is_to_be_left_out_must_be_there(install, monkeypatch):
    install(kit=registering("mine"))
    monkeypatch.setenv("MTL_NO_PLUGINS", "kid")
    with pytest.raises(UnknownNameError, match=r"Unknown plugin to leave out 'kid'. Did you mean 'kit'\?"):
        load_plugins()


def test_a_plugin_that_is_installed_may_be_named_too(install):
    install(kit=registering("mine"))
    assert list(load_plugins(["kit_module"]).infos).count("kit") == 1
