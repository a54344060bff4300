"""Tables and sentences of what a grid has found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mtl.compare.affinity import Matrix
from mtl.compare.bootstrap import Estimate
from mtl.compare.budget import UNITS, Spent
from mtl.compare.figures import Method, Question
from mtl.compare.findings import Findings, Overall
from mtl.report.tables import Table, few_runs, figure, signed, told_notes, undefined_note

#: Marks what is out of the common budget, wherever it stands.
BROKEN = " ‡"
BROKEN_NOTE = "‡ out of the common budget; see the table of budgets."
_VERDICTS = {"better": "better", "worse": "worse", "unclear": "not told apart"}


def verdict(findings: Findings) -> str:
    """Say in a sentence which method did best, and how sure its gain over the baseline is."""
    what = f"{findings.title}: "
    if findings.baseline is None:
        return what + "there is no baseline among the cells, so nothing is compared."
    if not findings.overall:
        return what + f"nothing could be compared with {findings.baseline}."
    together = {method.label for method in findings.methods if method.transductive}
    alone = {label: each for label, each in findings.overall.items() if label not in together} or findings.overall
    label, best = max(alone.items(), key=lambda each: each[1].delta_m.mean)
    gain = best.delta_m
    differences = [each for (_, method), each in findings.differences.items() if method == label]
    counts = {name: sum(each.verdict == name for each in differences) for name in _VERDICTS}
    of = f"{len(differences)} question{'' if len(differences) == 1 else 's'}"
    text = (
        f"{what}of {len(findings.overall)} compared with {findings.baseline}, {label} has the highest mean relative gain, "
        f"{percent(gain.mean)}{_interval_of_percent(gain)}; it is better on {counts['better']} of {of}, worse on "
        f"{counts['worse']}, and not told apart on {counts['unclear']}. "
    )
    if math.isnan(best.p_holm):
        return text + _together(findings, alone) + "With one seed nothing can be said of how sure that is."
    sure = {"better": "The gain holds at 5 %", "worse": "The loss holds at 5 %", "unclear": "That may be chance"}
    count = len(findings.overall)
    corrected = f", corrected for {count} comparisons" if count > 1 else ""
    return " ".join(
        [
            text + f"{sure[best.verdict]} (p {level(best.p_holm)}{corrected}). {_together(findings, alone)}".strip(),
            *few_runs(findings.seeds),
        ]
    )


def _together(findings: Findings, alone: Mapping[str, Overall]) -> str:
    """Say what the best of the transductive methods gains, which are a track of their own."""
    others = {label: each for label, each in findings.overall.items() if label not in alone}
    if not others:
        return ""
    label, best = max(others.items(), key=lambda each: each[1].delta_m.mean)
    gain = f"{percent(best.delta_m.mean)}{_interval_of_percent(best.delta_m)}"
    return f"Of those that answer the queries of an episode together, a track of its own, {label} has the highest: {gain}. "


def score_table(findings: Findings, flagged: Mapping[str, bool]) -> Table:
    """Show mean and 95 % interval of every question by every method, and n of m runs where some are missing."""
    rows = []
    for question in findings.questions:
        arrow = "↑" if question.higher_is_better else "↓"
        row = [question.name, f"{question.metric} {arrow}"]
        for method in findings.methods:
            found = findings.scores.get((question, method.label))
            row.append("–" if found is None else _score(found) + _of(len(method.figures[question]), method, question))
        rows.append(row)
    heads = ["question", "metric", *(_marked(method, flagged) for method in findings.methods)]
    notes = ["Mean, and 95 % interval by hierarchical bootstrap over seeds, or over the episodes of one seed."]
    figures = [values for method in findings.methods for by_draw in method.figures.values() for values in by_draw.values()]
    notes += undefined_note(value for values in figures for value in values)
    return Table(findings.title, heads, rows, notes + _notes(findings, flagged)).upright()


def deviation_table(findings: Findings) -> Table | None:
    """Show the standard deviation of every question's figures by every method; nothing where all have one figure."""
    if all(math.isnan(each.sd) for each in findings.scores.values()):
        return None
    rows = []
    for question in findings.questions:
        found = [findings.scores.get((question, method.label)) for method in findings.methods]
        rows.append([question.name, *("–" if each is None else figure(each.sd) for each in found)])
    notes = ["Of single figures: of seeds, or of all episodes of all seeds."]
    heads = ["question", *(method.label for method in findings.methods)]
    return Table(f"{findings.title}: standard deviations", heads, rows, notes).upright()


def difference_table(findings: Findings, flagged: Mapping[str, bool]) -> Table | None:
    """Show every paired difference to the baseline: interval, levels, effect, wins, verdict."""
    if not findings.differences:
        return None
    methods = {method.label: method for method in findings.methods}
    rows = []
    for (question, label), each in findings.differences.items():
        gain = each.gain
        row = [question.name, _marked(methods[label], flagged), signed(gain.mean), _signed_interval(gain)]
        row += [level(each.p_holm), level(each.p_wilcoxon), signed(each.effect), f"{each.wins}/{each.ties}/{each.losses}"]
        rows.append([*row, _VERDICTS[each.verdict]])
    heads = ["question", "method", "Δ", "95 % interval", "p (Holm)", "p (Wilcoxon)", "effect d", "win/tie/loss", "verdict"]
    notes = [
        f"Δ: gain over {findings.baseline}, paired by seed and episode; positive is better, whichever way the metric points. "
        "p (Holm): paired t test over seeds, or over the episodes of one seed, corrected over the questions of a method. "
        "effect d: Δ over the standard deviation of the paired differences."
    ]
    return Table(f"{findings.title}: differences to {findings.baseline}", heads, rows, notes + _notes(findings, flagged))


def overall_table(findings: Findings, flagged: Mapping[str, bool]) -> Table | None:
    """Show every method over all questions: Δm, its level, its mean rank."""
    ranks = dict(zip(findings.ranks.names, findings.ranks.ranks, strict=True)) if findings.ranks else {}
    if not findings.overall and not ranks:
        return None
    rows = []
    for method in findings.methods:
        each = findings.overall.get(method.label)
        row = [_marked(method, flagged)]
        row += [percent(each.delta_m.mean), _interval_of_percent(each.delta_m).strip()] if each else ["–", ""]
        row += [level(each.p_holm) if each else "–", figure(ranks.get(method.label)), _VERDICTS[each.verdict] if each else ""]
        rows.append(row)
    notes = ["Δm: mean relative gain (Maninis et al. 2019), level corrected over methods. Rank: mean over questions, 1 is best."]
    if findings.ranks and not math.isnan(findings.ranks.critical_difference):
        told = f"Friedman p {level(findings.ranks.p)}. " if not math.isnan(findings.ranks.p) else ""
        notes.append(
            f"{told}Ranks over {findings.ranks.count} questions that are closer than "
            f"{findings.ranks.critical_difference:.2f} are not told apart at 5 % (Nemenyi; Demšar 2006)."
        )
    heads = ["method", f"Δm over {findings.baseline}", "95 % interval", "p (Holm)", "mean rank", "verdict"]
    return Table(f"{findings.title}: over all", heads, rows, notes + _notes(findings, flagged))


def same_table(findings: Findings, flagged: Mapping[str, bool]) -> Table | None:
    """Show what training has gained where a target is learned in the same way: each method over the untouched encoder with it."""
    if not findings.same:
        return None
    methods = {method.label: method for method in findings.methods}
    rows = [
        [
            _marked(methods[label], flagged),
            percent(each.delta_m.mean),
            _interval_of_percent(each.delta_m).strip(),
            level(each.p_holm),
            _VERDICTS[each.verdict],
        ]
        for label, each in findings.same.items()
    ]
    base = next(method.column for method in findings.methods if method.label == findings.baseline)
    notes = [f"Δm over {base} with the method's own adaptation: what training has gained, however a target is learned then."]
    heads = ["method", f"Δm over {base}", "95 % interval", "p (Holm)", "verdict"]
    return Table(f"{findings.title}: by the same adaptation", heads, rows, notes + _notes(findings, flagged))


def negative_table(findings: Findings) -> Table | None:
    """Name negative transfer: which question, by which method, how much, how sure."""
    rows = [
        [question.name, label, signed(each.gain.mean), _signed_interval(each.gain), level(each.p_holm), _sure(each.verdict)]
        for question, label, each in findings.negative
    ]
    heads = ["question", "method", "loss", "95 % interval", "p (Holm)", "how sure"]
    return Table(f"{findings.title}: negative transfer against {findings.baseline}", heads, rows) if rows else None


def spent_table(found: Sequence[Spent], matched: str, tolerance: float) -> Table | None:
    """Show what every column used, and which is out of the common budget."""
    if not found:
        return None
    rows = []
    for each in found:
        counts = ["–" if (value := each.used[unit]) is None else f"{value:,.0f}".replace(",", " ") for unit in UNITS]
        ratio = "–" if each.ratio is None else f"{each.ratio:.2f}"
        state = "not known" if each.ratio is None else "broken" if each.broken else "kept"
        parameters = f"{each.parameters:,}".replace(",", " ")
        rows.append([each.label + (BROKEN if each.broken else ""), *counts, parameters, ratio, state])
    heads = ["method", *UNITS.values(), "parameters trained", "of the median", "budget"]
    note = f"Matched: {UNITS[matched]}, within {tolerance:.0%} of the median. Sums over the models of a run, mean over seeds."
    return Table("Budgets", heads, rows, [note])


def matrix_table(matrix: Matrix) -> Table:
    """Show a matrix with its suggestion."""
    rows = [[name, *(signed(value) for value in row)] for name, row in zip(matrix.rows, matrix.values, strict=True)]
    return Table(matrix.title, ["", *matrix.columns], rows, [matrix.suggestion])


def level(p: float) -> str:
    """Write a level of significance."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """Write a share as a signed percentage."""
    return "–" if math.isnan(share) else f"{'+' if share >= 0 else '−'}{abs(share):.1%}".replace("%", " %")


def _score(found: Estimate) -> str:
    return figure(found.mean) if math.isnan(found.low) else f"{figure(found.mean)} [{figure(found.low)}, {figure(found.high)}]"


def _signed_interval(found: Estimate) -> str:
    return "–" if math.isnan(found.low) else f"[{signed(found.low)}, {signed(found.high)}]"


def _interval_of_percent(found: Estimate) -> str:
    return "" if math.isnan(found.low) else f" [{percent(found.low)}, {percent(found.high)}]"


def _of(count: int, method: Method, question: Question) -> str:
    planned = method.planned_for.get(question, method.planned)
    return "" if count == planned else f" ({count} of {planned})"


def _marked(method: Method, flagged: Mapping[str, bool]) -> str:
    return method.label + (BROKEN if flagged.get(method.column) else "")


def _sure(verdict: str) -> str:
    return "holds at 5 %" if verdict == "worse" else "may be chance"


def _notes(findings: Findings, flagged: Mapping[str, bool]) -> list[str]:
    notes = [*told_notes(findings.methods), *few_runs(findings.seeds)]
    if any(flagged.get(method.column) for method in findings.methods):
        notes.append(BROKEN_NOTE)
    return notes
