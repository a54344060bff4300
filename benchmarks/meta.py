"""Meta-gradients beside learn2learn's: time, peak memory and FLOPs of one episode, and speed of few-shot evaluation.

Measured: one episode of 5 ways, 5 shots and 25 queries of about 32 tokens on MiniLM in float32, K = 5 inner steps, from
the parameters to gradients in ``.grad``. Against: ``learn2learn.algorithms.MAML`` in its best set-up: no pooler,
frozen parameters left out, eager attention (fused attention has no second derivative), the same head, loss, rate and
features; where only a part is adapted, ``maml_update`` is given the gradients of that part alone. That is the best of its
wrapper, and what the targets are held against; "split by hand" is beside it: the part above the trunk alone in a MAML, the
trunk run once, as a careful user of learn2learn would program it.
How: times in one process, all sides in turn, ratios between neighbours; peak memory in a fresh process each, above what
the process had with the model loaded (``ru_maxrss``); FLOPs by ``torch.utils.flop_counter``, over those of one forward
pass of support or query. MFU is those that a side makes (padding and what is made again in them, PyTorch's fused attention
on a CPU not), over its time and the best throughput of products of matrices here. Targets: second order, all layers:
store at most 1.0 of learn2learn's time; recompute at most 1.4 of it, and at most half its extra memory. Last two layers:
1.4 times as fast. ANIL: 2.5 times, with the trunk frozen 20 times. FOMAML: within 10 % of K + 1 bare forward and backward
passes. 600 episodes answered by prototypes under 3 s, by logistic regression under 30 s, once rows are encoded. Peak
memory flat from 1 to 16 episodes a step: of a process that learns from the same 16 episodes in steps of so many, and of
one that makes a single step with freed tensors given back to the system at once, as the C library keeps some on the heap.

    python benchmarks/meta.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import measuring
import numpy as np
import torch
from measuring import Spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.utils.flop_counter import FlopCounterMode

from mtl.config import EncoderConfig, EpisodesConfig
from mtl.data.episodes import Episode, EpisodeRows, Pool, collate_episode, draw_episode
from mtl.episodic.gradient_based import GradientBased
from mtl.meta.reference import load_learn2learn
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import load_plugins
from mtl.task import Task
from mtl.transfer.measure import measure
from mtl.transfer.space import Space
from mtl_plugins.anil import ANIL
from mtl_plugins.fomaml import FOMAML
from mtl_plugins.logistic import Logistic
from mtl_plugins.maml import MAML
from mtl_plugins.prototype import Prototype

STEPS, RATE, SCALE, WAYS = 5, 0.05, 10.0, 5
_WORDS = ("bank", "card", "payment", "account", "not", "found", "time", "please", "help", "order", "the", "was", "my")


class World:
    """MiniLM, generated rows of 20 classes, and episodes of them."""

    def __init__(self, attention: str, words: int, freeze: str = "embeddings", episodes: int = 4) -> None:
        plugins = load_plugins()
        config = EncoderConfig(name="minilm", freeze=freeze, dropout=0.0)
        self.encoder = load_encoder(config, plugins.locate_encoder("minilm"), attention=attention)
        rng = np.random.default_rng(0)
        rows = [
            {"text": f"{number % 20} " + " ".join(rng.choice(_WORDS, words)), "label": f"class {number % 20}"}
            for number in range(600)
        ]
        task = Task(name="bench", kind="classification", data={"train": rows, "validation": rows[:40], "test": rows[:40]})
        self.data: TaskData = measuring.load_task(task, plugins, self.encoder)
        self.model = MultiTaskModel(self.encoder, {"bench": self.data.kind}, lambda name: 0)
        self.model.train()
        self.features = self.data.splits["train"]
        pool = Pool(self.features, self.data.kind, 10)
        drawn = [draw_episode(rng, "bench", pool, EpisodesConfig(ways=WAYS, shots=5, queries=5)) for _ in range(episodes)]
        self.episodes = [collate_episode(rows_, self.features, self.data.kind) for rows_ in drawn]
        self.rows: list[EpisodeRows] = drawn

    def clear(self) -> None:
        """Forget all gradients."""
        self.model.zero_grad(set_to_none=True)


def ours(world: World, strategy: GradientBased) -> Callable[[int], None]:
    """Return mtl's side."""
    strategy.prepare(world.model)

    def step(number: int) -> None:
        world.clear()
        strategy.fill_gradients(world.model, [world.episodes[number % len(world.episodes)]])

    return step


class Learner(nn.Module):
    """What a user of learn2learn wraps: layers from ``depth`` on with a head."""

    def __init__(self, world: World, depth: int) -> None:
        super().__init__()
        self.encoder, self.depth = world.encoder, depth
        self.head = nn.Linear(world.encoder.hidden, WAYS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Mapping[str, Tensor], states: Tensor | None = None) -> Tensor:
        """Return logits, ``[rows, ways]``."""
        pooled = self.encoder(inputs, states, self.depth).pooled
        return self.head(SCALE * normalize(pooled, dim=-1))


class Top(nn.Module):
    """The layers above the trunk alone, so that learn2learn copies nothing else."""

    def __init__(self, world: World, layers: int) -> None:
        super().__init__()
        self.layers = world.encoder.layers()[len(world.encoder.layers()) - layers :] if layers else nn.ModuleList()
        self.head = nn.Linear(world.encoder.hidden, WAYS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return logits, ``[rows, ways]``."""
        wide = (1.0 - mask[:, None, None, :].to(states.dtype)) * torch.finfo(states.dtype).min
        for layer in self.layers:
            states = layer(states, wide)
        weights = mask.unsqueeze(-1).to(states.dtype)
        return self.head(SCALE * normalize((states * weights).sum(1) / weights.sum(1), dim=-1))


def targets(episode: Episode) -> tuple[Tensor, Tensor]:
    """Return the classes of support and query by their place in the episode."""
    place = {number: position for position, number in enumerate(episode.outputs)}
    labels = [batch.parts["bench"].columns["label"].tolist() for batch in (episode.support, episode.query)]
    return tuple(torch.tensor([place[label] for label in found]) for found in labels)  # type: ignore[return-value]


def theirs(world: World, adapted: Callable[[str], bool], first_order: bool = False) -> Callable[[int], None]:
    """Return learn2learn's side: the whole model in its MAML, the gradients of ``adapted`` alone taken."""
    l2l = load_learn2learn()
    learner = Learner(world, 0)
    maml = l2l.algorithms.MAML(learner, lr=RATE, first_order=first_order, allow_nograd=True, allow_unused=True)
    names = [name for name, _ in learner.named_parameters()]
    everything = all(adapted(name) for name, p in learner.named_parameters() if p.requires_grad)

    def step(number: int) -> None:
        maml.zero_grad(set_to_none=True)
        episode = world.episodes[number % len(world.episodes)]
        support, query = targets(episode)
        clone = maml.clone()
        for _ in range(STEPS):
            loss = cross_entropy(clone(episode.support.inputs), support)
            if everything:
                clone.adapt(loss)
                continue
            parameters = dict(clone.module.named_parameters())
            chosen = [name for name in names if adapted(name)]
            found = torch.autograd.grad(loss, [parameters[name] for name in chosen], create_graph=not first_order)
            by_name = dict(zip(chosen, found, strict=True))
            l2l.algorithms.maml.maml_update(clone.module, RATE, [by_name.get(name) for name in parameters])
        cross_entropy(clone(episode.query.inputs), query).backward()

    return step


def split_by_hand(world: World, layers: int) -> Callable[[int], None]:
    """Return learn2learn's side with the trunk outside of its MAML, run once."""
    l2l = load_learn2learn()
    depth = len(world.encoder.layers()) - layers
    maml = l2l.algorithms.MAML(Top(world, layers), lr=RATE)

    def step(number: int) -> None:
        world.clear()
        maml.zero_grad(set_to_none=True)
        episode = world.episodes[number % len(world.episodes)]
        support, query = targets(episode)
        read = [(world.encoder.trunk(batch.inputs, depth), batch.inputs["attention_mask"]) for batch in episode.batches]
        clone = maml.clone()
        for _ in range(STEPS):
            clone.adapt(cross_entropy(clone(*read[0]), support))
        cross_entropy(clone(*read[1]), query).backward()

    return step


def bare_passes(world: World) -> Callable[[int], None]:
    """Return K + 1 plain forward and backward passes with fused attention."""
    head = torch.zeros(WAYS, world.encoder.hidden, requires_grad=True)

    def step(number: int) -> None:
        episode = world.episodes[number % len(world.episodes)]
        support, query = targets(episode)
        for batch, labels in [(episode.support, support)] * STEPS + [(episode.query, query)]:
            world.clear()
            features = normalize(world.encoder(batch.inputs).pooled, dim=-1)
            cross_entropy(linear(SCALE * features, head), labels).backward()

    return step


def sides(words: int) -> dict[str, tuple[World, Callable[[int], None]]]:
    """Return every side by name; each world is shared by the sides that need the same model."""
    eager, fused = World("eager", words), World("sdpa", words)
    frozen = World("sdpa", words, freeze="all")
    for world in (eager, fused, frozen):
        world.encoder.precision = "fp32"
    options: dict[str, Any] = {"steps": STEPS, "rate": RATE, "scale": SCALE, "clip": None, "layer_norms": True}
    last = len(eager.encoder.layers()) - 2

    def in_last_two(name: str) -> bool:
        return name.startswith("head.") or any(f".layer.{number}." in name for number in (last, last + 1))

    def make(world: World, strategy: GradientBased) -> tuple[World, Callable[[int], None]]:
        return world, ours(world, strategy)

    return {
        "all layers: learn2learn": (eager, theirs(eager, lambda name: True)),
        "all layers: store": make(fused, MAML(**options, memory="store")),
        "all layers: recompute": make(fused, MAML(**options, memory="recompute")),
        "last two: learn2learn": (eager, theirs(eager, in_last_two)),
        "last two: learn2learn, split by hand": (eager, split_by_hand(eager, 2)),
        "last two: store": make(fused, MAML(**options, adapt=2, memory="store")),
        "head: learn2learn": (eager, theirs(eager, lambda name: name.startswith("head."))),
        "head: learn2learn, split by hand": (eager, split_by_hand(eager, 0)),
        "head: store": make(fused, ANIL(steps=STEPS, rate=RATE, scale=SCALE, clip=None)),
        "head: trunk frozen, rows seen before": make(frozen, ANIL(steps=STEPS, rate=RATE, scale=SCALE, clip=None)),
        "first order: K + 1 passes": (fused, bare_passes(fused)),
        "first order: mtl": make(fused, FOMAML(**options)),
    }


_AGAINST = {
    "all layers: store": "all layers: learn2learn",
    "all layers: recompute": "all layers: learn2learn",
    "last two: store": "last two: learn2learn",
    "last two: learn2learn, split by hand": "last two: learn2learn",
    "head: store": "head: learn2learn",
    "head: learn2learn, split by hand": "head: learn2learn",
    "head: trunk frozen, rows seen before": "head: learn2learn",
    "first order: mtl": "first order: K + 1 passes",
}
#: The GNU C library then gives freed blocks of 128 kB or more back at once, so that a peak is what is alive and not how it lies.
_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
#: All sides, those that others are held against first.
_NAMES = tuple(dict.fromkeys([*_AGAINST.values(), *_AGAINST]))


def flops(step: Callable[[int], None]) -> int:
    """Return the FLOPs of one step, on rows that it has seen before."""
    step(0)
    with FlopCounterMode(display=False) as counter:
        step(0)
    return int(counter.get_total_flops())


def child(name: str, words: int, per_step: int, steps: int) -> dict[str, float]:
    """Return the extra peak memory of one side in this process, in bytes; of steps of several episodes, if there are steps."""
    torch.set_num_threads(measuring.THREADS)
    found = sides(words)
    world, step = found[name]
    with torch.no_grad():
        world.encoder(world.episodes[0].support.inputs)
    before = measuring.peak_memory()
    if steps:
        strategy = MAML(steps=STEPS, rate=RATE, scale=SCALE, memory="recompute")
        strategy.prepare(world.model)
        episodes = itertools.cycle(world.episodes)
        for _ in range(steps):
            world.clear()
            strategy.fill_gradients(world.model, list(itertools.islice(episodes, per_step)))
    else:
        step(0)
    return {"extra": measuring.peak_memory() - before}


def in_fresh_process(name: str, words: int, per_step: int = 1, steps: int = 0, **environment: str) -> float:
    """Return the extra peak memory of one side, in megabytes."""
    shape = ("--words", words, "--per-step", per_step, "--steps", steps)
    return float(measuring.in_fresh_process(__file__, name, *shape, **environment)["extra"]) / 1e6


def peaks_by_meta_batch(words: int) -> dict[int, tuple[float, float]]:
    """Return the extra peaks of as many episodes in steps of 1 to 16, and of what is alive in one such step, in megabytes."""
    name, found = "all layers: recompute", {}
    for count in (1, 2, 4, 8, 16):
        run = in_fresh_process(name, words, count, 16 // count)
        found[count] = (run, in_fresh_process(name, words, count, 1, **_GIVEN_BACK))
    return found


def evaluation_seconds(episodes: int) -> dict[str, float]:
    """Return the seconds that few-shot evaluation takes once the rows are encoded."""
    world = World("sdpa", 12, episodes=episodes)
    space = Space(world.encoder, world.data, world.features)
    _ = space.features
    found = {}
    for name, adaptation in (("prototype", Prototype()), ("logistic", Logistic())):
        start = time.perf_counter()
        for rows in world.rows:
            measure(space, rows, adaptation)
        found[name] = time.perf_counter() - start
    return found


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--words", type=int, default=29, help="words of a text; a token each, and three more")
    parser.add_argument("--only", default="", help="only the sides whose names begin so, such as 'last two'")
    parser.add_argument("--episodes", type=int, default=600, help="episodes of the evaluation")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--per-step", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    if options.child:
        print(json.dumps(child(options.child, options.words, options.per_step, options.steps)))
        return
    # First, while this process is small: a child's peak starts from what its parent holds.
    names = [name for name in _NAMES if name.startswith(options.only)]
    memory = {name: in_fresh_process(name, options.words) for name in names}
    flat = peaks_by_meta_batch(options.words)
    print(json.dumps({"memory": memory, "episodes a step": flat}), file=sys.stderr, flush=True)
    steps = {name: step for name, (_, step) in sides(options.words).items() if name in names}
    forward = flops_of_forward(options.words)
    counted = {name: flops(step) / forward for name, step in steps.items()}
    throughput = measuring.matmul_throughput()
    timed: dict[str, Callable[[int], float]] = {name: _timed(step, seen="seen" in name) for name, step in steps.items()}
    seconds = measuring.interleave(timed, options.repeats)
    print(json.dumps({"seconds": seconds, "flops": counted}), file=sys.stderr, flush=True)
    rows = []
    for name, times in seconds.items():
        base = _AGAINST.get(name)
        ratio = Spread.of([mine / other for mine, other in zip(times, seconds[base], strict=True)]).show() if base else "1"
        room = f"{memory[name] / memory[base]:.2f}" if base else "1"
        milliseconds = Spread.of([1000 * value for value in times]).show(".0f")
        used = Spread.of([measuring.utilisation(counted[name] * forward, value, throughput) for value in times]).show(".0f")
        rows.append([name, milliseconds, ratio, f"{memory[name]:,.0f}", room, f"{counted[name]:.1f}", used])
    columns = ["side", "ms an episode", "× learn2learn or bare", "extra peak, MB", "× of it", "FLOPs in forward passes", "MFU, %"]
    speed = evaluation_seconds(options.episodes)
    table = measuring.table(columns, rows)
    heights = [[str(count), *(f"{peak:,.0f}" for peak in peaks)] for count, peaks in flat.items()]
    table += "\n\n" + measuring.table(
        ["episodes a step", "extra peak of 16 episodes, MB", "of a step, tensors given back at once, MB"], heights
    )
    shown = [[name, f"{value:.2f}"] for name, value in speed.items()]
    table += "\n\n" + measuring.table([f"{options.episodes} episodes by", "seconds"], shown)
    figures = {"seconds": seconds, "memory": memory, "flops": counted, "throughput": throughput}
    measuring.publish("meta", options, table, {**figures, "episodes_a_step": flat, "evaluation": speed})


def flops_of_forward(words: int) -> int:
    """Return the FLOPs of one forward pass over a support."""
    world = World("eager", words)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        world.encoder(world.episodes[0].support.inputs)
    return int(counter.get_total_flops())


def _timed(step: Callable[[int], None], *, seen: bool) -> Callable[[int], float]:
    step(0)  # warm-up

    def run(number: int) -> float:
        if seen:
            step(number)
        start = time.perf_counter()
        step(number)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
