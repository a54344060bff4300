"""LaTeX and CSV of a table."""

from __future__ import annotations

from mtl.report.formats import csv_text, latex, slug
from mtl.report.tables import Table

TABLE = Table("Δ of 5 % & more", ["task_a", "Δ"], [["a, b", "−0.1 ±0.2"]], ["p < 0.05"])


def test_latex_is_booktabs_with_everything_escaped():
    assert latex(TABLE) == (
        "\\begin{table}\n"
        "  \\centering\n"
        "  \\caption{$\\Delta$ of 5 \\% \\& more}\n"
        "  \\label{tab:of-5-more}\n"
        "  \\begin{tabular}{lr}\n"
        "    \\toprule\n"
        "    task\\_a & $\\Delta$ \\\\\n"
        "    \\midrule\n"
        "    a, b & $-$0.1 $\\pm$0.2 \\\\\n"
        "    \\bottomrule\n"
        "  \\end{tabular}\n"
        "  \\par\\footnotesize p $<$ 0.05\n"
        "\\end{table}\n"
    )


def test_csv_quotes_commas_and_has_minus_signs_that_programs_read():
    assert csv_text(TABLE) == 'task_a,Δ\n"a, b",-0.1 ±0.2\n'


def test_a_slug_is_a_name_of_a_file():
    assert slug("Tasks, test split: over all") == "tasks-test-split-over-all"
