"""The blocks of docs/writing-a-task.md run as they stand, in order, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WARM = Path(__file__).with_name("warm.py")
PAGE = ROOT / "docs" / "writing-a-task.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w.-]+\.(?:py|yaml))\n")


def blocks(page: str) -> list[tuple[int, str, str]]:
    """Return line, language and text of every fenced block."""
    return [(page.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _BLOCK.finditer(page)]


@pytest.fixture(scope="module")
def socket_path() -> Iterator[str]:
    """Where a Python with its imports behind it waits; a short path, as sockets want it."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/warm"
        server = subprocess.Popen([sys.executable, str(WARM), "serve", path], env=_with_paths())
        try:
            while not Path(path).exists():
                assert server.poll() is None, "the server ended"
                time.sleep(0.05)
            yield path
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def environment(tmp_path: Path, encoder_folder: Path, socket_path: str) -> dict[str, str]:
    """The tiny encoder, and ``mtl`` and ``python`` on the path whether they are installed or not."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command, leave_out in (("mtl", ""), ("python", '[ "$1" = -c ] && shift\n')):
        script = folder / command
        script.write_text(f'#!/bin/sh\n{leave_out}exec "{sys.executable}" -S "{WARM}" ask {socket_path} {command} "$@"\n')
        script.chmod(0o755)
    paths = os.pathsep.join([str(folder), os.environ["PATH"]])
    return {**_with_paths(), "PATH": paths, "ENCODER": str(encoder_folder)}


def _with_paths() -> dict[str, str]:
    places = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "tasks")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}


def run_block(language: str, text: str, folder: Path, environment: dict[str, str]) -> None:
    """Save a block that names its file; run any other."""
    if language in ("python", "yaml") and (named := _FILE.match(text)):
        (folder / named[1]).write_text(text, encoding="utf-8")
        return
    assert language != "yaml", "a yaml block must start with its file's name in a comment"
    command = {"sh": ["sh", "-eu", "-c", text], "python": ["python", "-c", text]}[language]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr


def test_every_block_of_the_page_runs(tmp_path, environment):
    folder = tmp_path / "work"
    folder.mkdir()
    ran = []
    for line, language, text in blocks(PAGE.read_text(encoding="utf-8")):
        if language == "toml":
            continue
        try:
            run_block(language, text, folder, environment)
        except AssertionError as error:
            raise AssertionError(f"{PAGE.name}, block at line {line}: {error}") from error
        ran.append(language)
    assert {"sh", "yaml", "python"} <= set(ran)


def test_a_method_is_written_and_checked_as_its_page_says(tmp_path):
    """With an interpreter of its own: the page puts a package on its path."""
    [(_, language, text)] = blocks((PAGE.parent / "writing-a-method.md").read_text(encoding="utf-8"))
    environment = _with_paths()
    command = tmp_path / "bin" / "mtl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{environment["PYTHONPATH"]}" exec {sys.executable} -m mtl "$@"\n')
    command.chmod(0o755)
    run_block(language, text, tmp_path, environment | {"PATH": os.pathsep.join([str(command.parent), os.environ["PATH"]])})


def test_a_block_that_fails_is_noticed(tmp_path, environment):
    with pytest.raises(AssertionError, match="exit 3"):
        run_block("sh", "exit 3", tmp_path, environment)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_block("python", "1 / 0", tmp_path, environment)
    with pytest.raises(AssertionError, match="file's name"):
        run_block("yaml", "encoder: minilm", tmp_path, environment)


def test_the_entry_point_of_the_page_names_the_plugin_of_the_page():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    page = PAGE.read_text(encoding="utf-8")
    declared = [tomllib.loads(text) for _, language, text in blocks(page) if language == "toml"]
    assert [project["project"]["entry-points"]["mtl"] for project in declared] == [{"acme": "acme_tasks"}]
    assert "# acme_tasks.py\n" in page
