"""Matrices of a plain answer, where latex.py has spelled them all as pmatrix and vmatrix.

    1. matrix_rows    the cells of a pmatrix, a factor in front multiplied in, transposed
    2. determinant    a vmatrix as the number it is, in LaTeX

A determinant is no matrix: |A| and \\det A are numbers.
"""

import re

from support.latex import MATRIX, number

VMATRIX = MATRIX.replace("pmatrix", "vmatrix")


def matrix_rows(text: str) -> list[list[str]] | None:
    """The cells of a plain matrix, row by row; None for other text.

    A factor in front or a divisor behind is multiplied in, ^T transposes; [[1,2],[3,4]] is one too.
    """
    found = re.fullmatch(rf"((?:(?!\\begin).)*?){MATRIX}(\^\{{?T\}}?|/\d+)?", text)
    if not found:
        return _nested(text)
    factor = re.sub(r"(?:\\cdot|\\times|\*) ?$", "", found[1])
    if "=" in factor or factor.count("(") != factor.count(")"):
        return None
    rows = [row.split("&") for row in found[2].removesuffix("\\\\").split("\\\\")]
    after = found[3] or ""
    if after.startswith("^"):
        if len({len(row) for row in rows}) > 1:
            return None
        rows = [list(row) for row in zip(*rows)]
    elif after:
        factor = f"{factor or ''}\\frac{{1}}{{{after[1:]}}}"
    return [[_times(factor, cell) for cell in row] for row in rows]


def _nested(text: str) -> list[list[str]] | None:
    """[[1,2],[3,4]] as rows of one length, (1,2)^T as a column."""
    column = re.fullmatch(r"[(\[]([^()\[\]]+)[)\]]\^\{?T\}?", text)
    if column and len(_cells(column[1])) > 1:
        return [[cell] for cell in _cells(column[1])]
    if not re.fullmatch(r"\[(?:\[[^\[\]]+\],?)+\]", text):
        return None
    rows = [_cells(row) for row in re.findall(r"\[([^\[\]]+)\]", text[1:-1])]
    return rows if len({len(row) for row in rows}) == 1 else None


def _cells(row: str) -> list[str]:
    """The parts of a row between commas outside brackets."""
    return re.split(r",(?![^({]*[)}])", row)


def _times(factor: str, cell: str) -> str:
    """A cell times the factor in front of its matrix."""
    if factor in ("", "+"):
        return cell
    a, b = number("-1" if factor == "-" else factor), number(cell)
    if a is not None and b is not None:
        return str(a * b)
    return f"-({cell})" if factor == "-" else f"({factor})({cell})"


def determinant(text: str) -> str | None:
    """A plain vmatrix of at most four rows as the sum of its products; None for other text."""
    found = re.fullmatch(VMATRIX, text)
    if not found:
        return None
    rows = [row.split("&") for row in found[1].removesuffix("\\\\").split("\\\\")]
    if len(rows) > 4 or any(len(row) != len(rows) for row in rows):
        return None
    return _expanded(rows)


def _expanded(rows: list[list[str]]) -> str:
    """Along the first row."""
    if len(rows) == 1:
        return f"({rows[0][0]})"
    terms = []
    for k, cell in enumerate(rows[0]):
        minor = _expanded([row[:k] + row[k + 1 :] for row in rows[1:]])
        terms.append(f"{'-' if k % 2 else '+'}({cell})({minor})")
    return "".join(terms)
