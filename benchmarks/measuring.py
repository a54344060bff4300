"""What the benchmarks share: interleaved repetitions, medians, tables, and mtl's parts put together by hand.

Imports torch only inside functions: the parent process of ``memory_tasks.py`` has to stay small, because on
Linux a child's ``ru_maxrss`` starts from what its parent held.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from mtl.model.encoder import Encoder
    from mtl.model.inference import TaskData
    from mtl.model.multitask import MultiTaskModel
    from mtl.plugins import Plugins
    from mtl.task import Task
    from mtl.training.strategy import Draw, StepReport

THREADS = 2


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and largest figure."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise ``values``."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, form: str = ".2f") -> str:
        """Return ``median (low–high)``."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder that the results are appended to")
    made.add_argument("--repeats", type=int, help="measured repetitions of each side")
    return made


def data_folder() -> Path:
    """Return the folder that the environment variable DATA names.

    Raises:
        SystemExit: If it is not set or is not a folder.
    """
    folder = Path(os.environ.get("DATA", "")).expanduser()
    if not os.environ.get("DATA") or not folder.is_dir():
        sys.exit("Set DATA to the folder that holds trec/ and subj/, each with {train,validation,test}.jsonl.")
    return folder.absolute()


def interleave(sides: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, list[Any]]:
    """Call every side in turn, ``repeats`` times: A B A B …, so that a slow spell of the machine hits all alike.

    Odd rounds go backwards (A B B A …), so that no side is always the first. A side is given the number of the round.
    """
    results: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            results[name].append(sides[name](number))
            print(f"  round {number + 1} of {repeats}: {name} done", file=sys.stderr, flush=True)
    return results


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Measure wall and processor seconds of the block; they are in the dict once it has ended."""
    figures: dict[str, float] = {}
    wall, processor = time.perf_counter(), time.process_time()
    yield figures
    figures["wall"], figures["processor"] = time.perf_counter() - wall, time.process_time() - processor


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others figures."""
    rule = "|---|" + "---:|" * (len(columns) - 1)
    return "\n".join([f"| {' | '.join(columns)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def publish(name: str, options: argparse.Namespace, shown: str, figures: Mapping[str, Any]) -> None:
    """Print the table and append one line of JSON to ``<out>/<name>.jsonl``."""
    print(shown)
    plain = {key: value for key, value in vars(options).items() if isinstance(value, str | int | float | list)}
    line = {"benchmark": name, "options": plain, "environment": environment(), **figures}
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{name}.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, default=asdict) + "\n")


def environment() -> dict[str, Any]:
    """Say where and with what was measured."""
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "numpy")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "load": list(os.getloadavg()),
        "packages": {name: version(name) for name in names},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def matmul_throughput(bfloat16: bool = False) -> float:
    """Return the most floating point operations a second that products of matrices reach here, with ``THREADS`` threads.

    The best of twelve products of 1536 × 1536: about 7 GFLOPs each.
    """
    import torch

    torch.set_num_threads(THREADS)
    side = 1536
    left, right = (torch.randn(side, side, dtype=torch.bfloat16 if bfloat16 else torch.float32) for _ in range(2))
    seconds = []
    for _ in range(12):
        with stopwatch() as clock:
            left @ right
        seconds.append(clock["wall"])
    return 2 * side**3 / min(seconds)


def training_flops(config: Any, tokens: float, squares: float, frozen: int = 0, kept: bool = False) -> float:
    """Return the operations that learning from so many tokens needs: products of matrices of all layers, padding left out.

    Forth, a token needs two for each weight of its layers' matrices, and attention 4 × hidden for each pair of tokens and
    layer; back, twice as many (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Embeddings, heads and the optimiser are
    not counted.

    Args:
        config: The encoder's, a BERT.
        tokens: How many, over all sequences.
        squares: Sum of the squares of the sequences' lengths.
        frozen: Layers at the bottom that nothing goes back through.
        kept: Whether what leaves them is there already.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    passes = 3 * (layers - frozen) + (0 if kept else frozen)
    return float(passes * (2 * weights * tokens + 4 * hidden * squares))


def utilisation(flops: float, seconds: float, throughput: float) -> float:
    """Return model-FLOPs utilisation in percent: operations over the time and what products of matrices reach here."""
    return 100 * flops / seconds / throughput


def read_tasks(folder: Path, test_rows: int | None = None) -> list[Task]:
    """Declare TREC and SUBJ: short questions of 6 classes, sentences of 2."""
    import mtl

    limit = {"test": test_rows} if test_rows else None
    return [
        mtl.Task(name=name, kind="classification", data=f"{folder}/{name}/{{split}}.jsonl", max_rows=limit)
        for name in ("trec", "subj")
    ]


def load_minilm(plugins: Plugins, attention: Literal["auto", "sdpa"] = "auto") -> Encoder:
    """Load the registered encoder ``minilm``, as an experiment with its defaults does; with ``sdpa`` as PyTorch has it."""
    from mtl.config import EncoderConfig
    from mtl.model.encoder import load_encoder

    return load_encoder(EncoderConfig(name="minilm", attention=attention), plugins.encoders.get("minilm")())


def load_task(task: Task, plugins: Plugins, encoder: Encoder) -> TaskData:
    """Read, fit and tokenise a task, as a run does."""
    from mtl.data.features import featurize
    from mtl.data.sources import load_splits
    from mtl.model.inference import TaskData

    kind = plugins.kinds.get(task.kind)(task, plugins.metrics_of(task.kind))
    rows = load_splits(task, dict(kind.roles), Path.cwd())
    kind.fit(rows["train"])
    return TaskData(task.name, kind, {str(split): featurize(kind, found, encoder.tokenizer) for split, found in rows.items()})


def make_tasks(plugins: Plugins, encoder: Encoder, count: int) -> dict[str, TaskData]:
    """Return classifications of the corpus's messages by what they are about; they differ in their rows."""
    data = {}
    for number in range(count):
        task = plugins.tasks.get("helpdesk/intent").model_copy(update={"name": f"task{number}"})
        data[task.name] = load_task(task, plugins, encoder)
    return data


def make_model(encoder: Encoder, data: Mapping[str, TaskData], seed: int) -> MultiTaskModel:
    """Put the encoder and a fresh head for each task together."""
    from mtl.model.multitask import MultiTaskModel
    from mtl.seeds import seed_of

    return MultiTaskModel(encoder, {name: task.kind for name, task in data.items()}, lambda name: seed_of(seed, "head", name))


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_fresh_process(script: str, *arguments: object, **environment: str) -> Any:
    """Return the JSON that a script prints last when it is run as ``script --child arguments``, with more in its environment."""
    command = [sys.executable, script, "--child", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment})
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(script: str, children: Mapping[str, Sequence[object]]) -> dict[str, Any]:
    """Return the JSON that each child prints last; one runs at a time, and the next goes on where it calls :func:`hand_over`.

    Args:
        script: What is run as ``script --child arguments`` for each.
        children: Their names and arguments. Each hands over when it has read its data, and waits for the others to have done so.
    """
    running = {}
    for name, arguments in children.items():
        command = [sys.executable, script, "--child", *map(str, arguments)]
        running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _said(running[name], name)
    results: dict[str, Any] = {}
    while running:
        for name, child in list(running.items()):
            print("go on", file=child.stdin, flush=True)
            if (said := _said(child, name)) != _HANDED_OVER:
                results[name] = json.loads(said)
                child.communicate()
                del running[name]
    return results


_HANDED_OVER = "handed over"


def _said(child: subprocess.Popen[str], name: str) -> str:
    assert child.stdout is not None
    if said := child.stdout.readline():
        return said.strip()
    sys.exit(f"{name} has ended without a result; see above.")


def hand_over() -> float:
    """Let the next child of :func:`in_turns` run, and return the seconds until this one's turn has come again."""
    with stopwatch() as clock:
        print(_HANDED_OVER, flush=True)
        if not sys.stdin.readline():
            sys.exit("The benchmark that started this process has ended.")
    return clock["wall"]


@contextmanager
def settings_of_a_run() -> Iterator[None]:
    """Train mtl as ``mtl run`` does, with deterministic algorithms and freed memory kept, and leave the other side without."""
    import torch

    from mtl.model.heap import keeping_freed

    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with keeping_freed():
            yield
    finally:
        torch.set_deterministic_debug_mode("default")


class Onlooker:
    """A watcher of a training that counts steps, rows, tokens and padding."""

    def __init__(self) -> None:
        self.steps = self.rows = self.tokens = self.places = self.squares = 0

    def count(self, mask: Tensor, rows: int) -> None:
        """Count an encoder pass over ``mask``, ``[sequences, tokens]``, that serves so many rows."""
        self.rows += rows
        self.tokens += int(mask.sum())
        self.squares += int(mask.sum(1).pow(2).sum())
        self.places += mask.numel()

    def batch_ready(self, draw: Draw) -> None:
        """Count a draw."""
        for batch in draw:
            self.count(batch.inputs["attention_mask"], batch.rows)

    def step_end(self, step: int, examples: int, report: StepReport) -> None:
        """Count a step."""
        self.steps += 1

    def evaluation_end(self, step: int, metrics: Any) -> None:
        """There are no evaluations here."""

    @property
    def padding(self) -> float:
        """Share of the encoder's places that are padding."""
        return 1 - self.tokens / self.places


class Clock(Onlooker):
    """Counts what is learned from after the first steps, and how long that takes."""

    def __init__(self, warm_up: int) -> None:
        super().__init__()
        self.warm_up, self.started, self.seconds = warm_up, 0.0, 0.0

    def step_end(self, step: int, examples: int, report: Any) -> None:
        """Start counting when it is warm."""
        if step == self.warm_up:
            self.rows = self.tokens = self.places = self.squares = 0
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started

    def plugin(self) -> Any:
        """Return a plugin by which a whole run tells this clock of its steps."""
        import mtl

        clock = self

        class Teller:
            @mtl.hookimpl
            def mtl_batch_ready(self, batch: Any) -> None:
                clock.count(batch.inputs["attention_mask"], batch.rows)

            @mtl.hookimpl
            def mtl_step_end(self, step: int) -> None:
                clock.step_end(step, 0, None)

        return Teller()

    def utilisation(self, config: Any) -> float:
        """Return the utilisation of its steps in percent, and take memory for it; ``config`` is that of the encoder."""
        return utilisation(training_flops(config, self.tokens, self.squares), self.seconds, matmul_throughput())
