"""Tables for papers and for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from mtl.report.tables import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "‡": r"$\ddagger$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
}


def latex(table: Table) -> str:
    """Return a table as LaTeX with the package booktabs, its notes below it."""
    heads = " & ".join(map(_escaped, table.columns))
    rows = [f"    {' & '.join(map(_escaped, row))} \\\\" for row in table.rows]
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_escaped(table.title)}}}",
        rf"  \label{{tab:{slug(table.title)}}}",
    ]
    lines += [rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"    \toprule", f"    {heads} \\\\", r"    \midrule"]
    lines += [*rows, r"    \bottomrule", r"  \end{tabular}"]
    lines += [f"  \\par\\footnotesize {_escaped(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_text(table: Table) -> str:
    """Return a table as CSV, its minus signs as programs read them."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.columns, *table.rows])
    return stream.getvalue().replace("−", "-")


def latex_document(tables: Sequence[Table]) -> str:
    """Return all tables, to be read into a document that uses the package booktabs."""
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(latex(table) for table in tables)


def slug(title: str) -> str:
    """Return a title as a name of a file or of an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
