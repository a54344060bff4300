from __future__ import annotations

import json
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from mtl.config import BatchConfig
from mtl.data.features import Features, Ragged, Tokenized
from mtl.data.lazy import Lazy
from mtl.data.rows import Rows
from mtl.errors import ConfigError
from mtl.seeds import seed_of
from mtl.training.schedule import Schedule, plan
from mtl_plugins.annealed import Annealed
from mtl_plugins.proportional import Proportional
from mtl_plugins.uniform import Uniform


def split_of(name, count, *, longest=30, sequences=1, fingerprint=None):
    """Features of ``count`` rows of random lengths from 1 to ``longest``."""
    lengths = np.random.default_rng(len(name) + count).integers(1, longest + 1, count)
    nothing = Ragged.of([])
    tokens = Ragged.of([[1] * length for length in lengths for _ in range(sequences)], "int32")
    rows = Rows({}, name, range(1, count + 1), fingerprint or name)
    return Features(Tokenized(tokens, None, nothing, nothing), sequences, {}, rows)


THREE = {"a": split_of("a", 300), "b": split_of("b", 120), "c": split_of("c", 40)}
ONE = {"a": split_of("a", 300)}


def schedule(features=THREE, *, sampler=None, examples=2000, seed=0, **batch):
    return Schedule(features, sampler or Proportional(), BatchConfig(**{"size": 8} | batch), examples, seed)


def listed(batches):
    return [{task: list(map(int, rows)) for task, rows in batch.items()} for batch in batches]


def counts_of(batches):
    counts = Counter()
    for batch in batches:
        for task, rows in batch.items():
            counts[task] += len(rows)
    return dict(counts)


@pytest.mark.parametrize("mixed", [False, True])
def test_every_row_of_an_epoch_comes_exactly_once(mixed):
    seen = Counter(row for batch in schedule(ONE, examples=300, mixed=mixed) for row in batch["a"])
    assert seen == Counter(range(300))


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_on_disk_come_in_the_same_order_and_take_no_memory(mixed, tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_CACHE", str(tmp_path))
    size = 400_000
    lengths = np.random.default_rng(0).integers(1, 30, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens, nothing = Ragged(np.zeros(offsets[-1], np.int8), offsets), Ragged.of([])
    found, peaks = [], []
    for column in ([], Lazy(size, lambda start, end: [""] * (end - start))):
        rows = Rows({"text": column}, "made", range(1, size + 1), "made")
        tracemalloc.start()
        batches = schedule({"t": Features(Tokenized(tokens, None, nothing, nothing), 1, {}, rows)}, examples=1000, mixed=mixed)
        found.append(listed(batches))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found[0] == found[1]
    in_memory, on_disk = peaks
    assert in_memory > 8 * size  # the order of the epoch
    assert on_disk < 8 * size / 2


@pytest.mark.parametrize("mixed", [False, True])
def test_every_row_comes_as_often_as_there_are_epochs(mixed):
    # More than one chunk of 128 batches of 8 rows, and no whole number of chunks.
    seen = Counter(row for batch in schedule(ONE, examples=1500, mixed=mixed) for row in batch["a"])
    assert seen == Counter(dict.fromkeys(range(300), 5))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("sampler", [Proportional(), Uniform(), Annealed()], ids=repr)
def test_rows_of_each_task_are_passed_through_evenly_and_the_budget_is_kept(sampler, mixed):
    batches = listed(schedule(sampler=sampler, mixed=mixed))
    assert sum(counts_of(batches).values()) == 2000
    for task, split in THREE.items():
        seen = Counter(row for batch in batches for row in batch.get(task, ()))
        # Whole passes, and a part of one: numbers differ by at most 1.
        often = [seen[row] for row in range(len(split))]
        assert max(often) - min(often) <= 1


@pytest.mark.parametrize(
    ("sampler", "shares"),
    [(Proportional(), (300 / 460, 120 / 460, 40 / 460)), (Uniform(), (1 / 3, 1 / 3, 1 / 3))],
    ids=["proportional", "uniform"],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_tasks_come_as_often_as_the_sampler_says(sampler, shares, mixed):
    counts = counts_of(schedule(sampler=sampler, examples=40_000, mixed=mixed))
    # 5,000 batches drawn: the standard error of a share is below 0.7 %; 3 of them are 2 %.
    for task, share in zip(THREE, shares, strict=True):
        assert counts[task] / 40_000 == pytest.approx(share, abs=0.02)


def test_an_annealed_sampler_gives_small_tasks_more_towards_the_end():
    batches = listed(schedule(sampler=Annealed(start=1.0, end=0.0), examples=20_000))
    half = len(batches) // 2
    early, late = counts_of(batches[:half]), counts_of(batches[half:])
    assert late["c"] > 1.5 * early["c"]


def test_a_homogeneous_batch_holds_one_task_and_a_mixed_one_several():
    assert all(len(batch) == 1 for batch in schedule(mixed=False))
    assert sum(len(batch) > 1 for batch in schedule(mixed=True)) > 100
    assert BatchConfig().mixed


def test_tasks_take_turns_in_mixed_batches_of_texts_of_one_length():
    alike = {name: split_of(name, 400, longest=1) for name in ("a", "b", "c")}
    for batch in schedule(alike, sampler=Uniform(), examples=1536, size=12, mixed=True):
        assert {name: len(rows) for name, rows in batch.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_text_that_tasks_of_like_shares_read_is_in_one_mixed_batch_for_all_of_them():
    same = {name: split_of("a", 300, fingerprint="same") for name in "abcd"}
    for batch in schedule(same, sampler=Uniform(), examples=1200, size=16, mixed=True):
        assert len({tuple(rows) for rows in batch.values()}) == 1
        assert [len(rows) for rows in batch.values()] == [4, 4, 4, 4]


def test_no_task_has_less_than_its_share_of_what_is_drawn_together():
    counts = counts_of(schedule(sampler=Uniform(), examples=1000, mixed=True))
    assert sorted(counts.values()) == [333, 333, 334]


@pytest.mark.parametrize("mixed", [False, True])
def test_no_batch_is_larger_than_size_and_tokens_allow(mixed):
    features = {**THREE, "d": split_of("dd", 100, sequences=2)}
    for batch in schedule(features, size=16, max_tokens=120, mixed=mixed):
        rows = sum(len(ids) for ids in batch.values())
        longest = max(int(features[task].lengths[list(ids)].max()) for task, ids in batch.items())
        sequences = sum(len(ids) * features[task].sequences for task, ids in batch.items())
        assert rows <= 16
        assert longest * sequences <= 120


def lengths_in_order(features, batches):
    return [np.concatenate([features[task].lengths[ids] for task, ids in batch.items()]) for batch in listed(batches)]


def trend(rows):
    """Correlation of a batch's place with the mean length of its rows."""
    return np.corrcoef(np.arange(len(rows)), [lengths.mean() for lengths in rows])[0, 1]


def halves(rows):
    half = len(rows) // 2
    return np.concatenate(rows[:half]).mean(), np.concatenate(rows[half:]).mean()


@pytest.mark.parametrize("mixed", [False, True])
def test_the_order_of_batches_has_nothing_to_do_with_their_length(mixed):
    features = {"a": split_of("a", 6000), "b": split_of("b", 2000)}
    rows = lengths_in_order(features, schedule(features, examples=24_000, mixed=mixed))
    # 3,000 batches in random order: the standard error of the correlation is 1/√3000 = 0.018.
    assert abs(trend(rows)) < 0.06
    first, second = halves(rows)
    assert first == pytest.approx(second, rel=0.03)


@pytest.mark.parametrize("mixed", [False, True])
def test_nor_has_it_among_the_batches_that_are_drawn_together(mixed):
    features = {"a": split_of("a", 6000), "b": split_of("b", 2000)}
    chunks = [lengths_in_order(features, schedule(features, examples=1024, seed=seed, mixed=mixed)) for seed in range(40)]
    # 40 times 128 batches: a standard error of 1/√(40 · 128) = 0.014. Sorted by length it would be near 1.
    assert abs(np.mean([trend(rows) for rows in chunks])) < 0.05
    first, second = np.mean([halves(rows) for rows in chunks], axis=0)
    assert first == pytest.approx(second, rel=0.05)


def test_rows_of_a_batch_are_of_like_length():
    batches = [ONE["a"].lengths[list(batch["a"])] for batch in schedule(ONE, examples=900)]
    spread = np.mean([lengths.max() - lengths.min() for lengths in batches])
    # 900 rows sorted over 30 lengths are 30 a length: a batch of 8 spans 1 at most, and nearly always.
    assert spread < 1


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("sampler", [Proportional(), Annealed()], ids=repr)
def test_a_schedule_goes_on_from_any_point_with_the_same_batches(mixed, sampler):
    def make():
        return schedule(sampler=sampler, examples=2500, mixed=mixed, max_tokens=200)

    whole = listed(make())
    running = make()
    states = [json.loads(json.dumps(running.state_dict()))]
    for _ in whole:
        next(running)
        states.append(json.loads(json.dumps(running.state_dict())))
    # Within the first chunk of 1,024 rows, about its end, within others, and at the very end.
    ends = np.cumsum([sum(map(len, batch.values())) for batch in whole])
    border = int(np.searchsorted(ends, 1024)) + 1
    assert ends[border - 1] == 1024
    for point in (0, 1, 37, border - 1, border, border + 1, len(whole) - 1, len(whole)):
        resumed = make()
        resumed.load_state_dict(states[point])
        assert listed(resumed) == whole[point:], point


def test_a_resumed_schedule_has_the_state_it_was_given():
    running = schedule()
    for _ in range(50):
        next(running)
    resumed = schedule()
    resumed.load_state_dict(running.state_dict())
    assert resumed.state_dict() == running.state_dict()


@pytest.mark.parametrize("mixed", [False, True])
def test_a_seed_gives_an_order_and_another_seed_another(mixed):
    assert listed(schedule(mixed=mixed)) == listed(schedule(mixed=mixed))
    assert listed(schedule(mixed=mixed)) != listed(schedule(mixed=mixed, seed=1))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_order_of_declaration_means_nothing(mixed):
    turned = dict(reversed(THREE.items()))
    assert listed(schedule(turned, mixed=mixed)) == listed(schedule(THREE, mixed=mixed))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("sampler", [Proportional(), Uniform(), Annealed()], ids=repr)
def test_the_plan_is_what_joint_training_draws_and_single_training_gets(sampler, mixed):
    config = BatchConfig(size=8, mixed=mixed)
    planned = plan(THREE, sampler, config, 1777, 3)
    assert planned == counts_of(Schedule(THREE, sampler, config, 1777, 3))
    assert sum(planned.values()) == 1777
    for task, examples in planned.items():
        alone = Schedule({task: THREE[task]}, sampler, config, examples, 3)
        assert counts_of(alone) == {task: examples}


def test_a_task_that_is_never_drawn_is_in_the_plan_with_0():
    assert plan({"a": split_of("a", 5000), "b": split_of("b", 1)}, Proportional(), BatchConfig(size=8), 8, 0) == {"a": 8, "b": 0}
    assert list(schedule(ONE, examples=0)) == []


@pytest.mark.parametrize("mixed", [False, True])
def test_single_training_sees_the_same_rows_of_a_task_as_joint_training(mixed):
    joint = listed(schedule(mixed=mixed))
    examples = counts_of(joint)["b"]
    alone = listed(schedule({"b": THREE["b"]}, examples=examples))
    assert Counter(row for batch in joint for row in batch.get("b", ())) == Counter(row for batch in alone for row in batch["b"])


def test_tasks_that_read_the_same_rows_go_through_them_in_the_same_order():
    same = {name: split_of("x", 50, fingerprint="f") for name in ("a", "b")}
    batches = listed(schedule(same, sampler=Uniform(), examples=60, mixed=True))
    drawn = [{row for batch in batches for row in batch.get(task, ())} for task in same]
    # About 30 of 50 rows each, the first of one order: the fewer are among the more.
    fewer, more = sorted(drawn, key=len)
    assert 10 < len(fewer) <= len(more) < 50
    assert fewer <= more


def test_a_seed_depends_on_every_part_and_fits_63_bits():
    seeds = {seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "b"), seed_of(0, "a", 0), seed_of("0", "a")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("shares", [{"a": 1.0}, {"a": 1.0, "b": math.nan}, {"a": 2.0, "b": -1.0}, {"a": 0, "b": 0.0}])
def test_shares_that_are_none_are_refused_with_the_sampler_s_name(shares):
    class Odd(Uniform):
        def shares(self, sizes, progress):
            return shares

    with pytest.raises(ConfigError, match=r"The sampler Odd gave the shares \{.*\}; each of a, b needs one that is 0 or more"):
        next(schedule({"a": split_of("a", 30), "b": split_of("b", 30)}, sampler=Odd()))
