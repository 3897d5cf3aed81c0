"""support/matrices.py: cells and determinants of plain matrices."""

import pytest

from support.latex import plain_math
from support.matrices import determinant, matrix_rows

COLUMN = [["1"], ["2"]]


@pytest.mark.parametrize(
    "text, rows",
    [
        (r"\begin{pmatrix}1\\2\end{pmatrix}", COLUMN),
        (r"\left[\begin{matrix}1\\[2pt]2\end{matrix}\right]", COLUMN),
        (r"{\begin{smallmatrix}1\cr 2\end{smallmatrix}}", COLUMN),
        (r"\left(\begin{array}{c}1\\\hline 2\end{array}\right)", COLUMN),
        (r"\begin{bmatrix}1&2\end{bmatrix}^\top", COLUMN),
        (r"(1,2)^T", COLUMN),
        (r"\frac{1}{2}\begin{Bmatrix}2\\4\\\end{Bmatrix}", COLUMN),
        (r"-\begin{pmatrix}-1\\-2\end{pmatrix}", COLUMN),
        (r"[[1,2],[3,4]]", [["1", "2"], ["3", "4"]]),
        (r"a\begin{pmatrix}b\end{pmatrix}", [["(a)(b)"]]),
        (r"[[1,2],[3]]", None),
        (r"\begin{pmatrix}1\end{pmatrix}+\begin{pmatrix}1\end{pmatrix}", None),
        (r"\begin{pmatrix}1\end{pmatrix}^{-1}", None),
        ("5", None),
    ],
)
def test_cells(text, rows):
    assert matrix_rows(plain_math(text)) == rows


def test_a_determinant_is_a_number():
    for text in (
        r"\begin{vmatrix}a&b\\c&d\end{vmatrix}",
        r"\det\begin{pmatrix}a&b\\c&d\end{pmatrix}",
        r"\left|\begin{matrix}a&b\\c&d\end{matrix}\right|",
    ):
        assert determinant(plain_math(text)) == "+(a)(+((d)))-(b)(+((c)))".replace(
            "+((d))", "(d)"
        ).replace("+((c))", "(c)")
    assert determinant(r"\begin{vmatrix}a&b\end{vmatrix}") is None
    assert determinant(plain_math(r"\begin{pmatrix}1\end{pmatrix}")) is None
