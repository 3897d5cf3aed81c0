"""support/characters.py: Unicode as LaTeX."""

import pytest

from support.characters import latex_of


@pytest.mark.parametrize(
    "text, latex",
    [
        ("x+1", "x+1"),
        ("2½", "2\\frac{1}{2}"),
        ("⅚", "\\frac{5}{6}"),
        ("10⁻³", "10^{-3}"),
        ("x₁₂", "x_{12}"),
        ("α", "\\alpha "),
        ("Λ", "\\Lambda "),
        ("ς", "\\sigma "),
        ("ϕ", "\\phi "),
        ("－５．０", "-5.0"),
        ("٣", "3"),
        ("𝑥𝟓", "x5"),
        ("ℝ∖ℤ", "\\mathbb{R}\\setminus \\mathbb{Z}"),
        ("∛8", "\\sqrt[3]8"),
        ("\ufeff5\u200b\u2062", "5"),
        ("1；2", "1;2"),
        ("5‰", "5\\times10^{-3}"),
        # the dollar of a plain answer comes from \\$ alone
        ("＄5", "\\$5"),
        # other letters stay as they are
        ("é", "é"),
        ("北京", "北京"),
        ("①③", "«①»«③»"),
    ],
)
def test_unicode_in_the_spelling_of_latex(text, latex):
    assert latex_of(text) == latex


def test_a_raised_digit_is_no_digit():
    assert latex_of("x²") != latex_of("x2") and latex_of("x₂") != latex_of("x2")
