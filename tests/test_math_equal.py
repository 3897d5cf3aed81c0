"""support/math_equal.py: equal and unequal answers, properties, texts that hang or attack."""

import importlib.util
import time
from fractions import Fraction

import pytest
from answers import EQUAL, HANGS, HOSTILE, UNEQUAL
from test_algebra import only_our_words

import support.math_equal as comparing
from support.algebra import code_of
from support.latex import plain_math
from support.math_equal import math_equal
from tools import ToolResult

SAME = [
    ("5", "5"),
    ("12", "12.0"),
    ("0.5", "\\frac{1}{2}"),
    ("1/2", "\\dfrac12"),
    ("-\\frac{3}{4}", "-0.75"),
    ("1,000", "1000"),
    ("1,234,567", "1234567"),
    ("50\\%", "0.5"),
    ("\\text{yes}", "yes"),
    ("x = 5", "5"),
    ("$7$", "7"),
    ("90^\\circ", "90"),
    ("(3, 4)", "(3,4)"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
    ("−5", "-5"),
    ("\\$32", "32"),
    ("1\\frac{1}{2}", "1.5"),
    ("\\frac{1}2", "0.5"),
    ("\\frac1{2}", "1/2"),
    ("1{,}000", "1000"),
    ("\\sqrt2", "\\sqrt{2}"),
    ("50\\%", "50"),
    ("-2\\frac{1}{4}", "-9/4"),
    ("\\frac{-1}{2}", "-0.5"),
    ("1e3", "1000"),
    (".5", "0.50"),
    ("2\\sqrt{3}", "2 \\sqrt{3}"),
]

DIFFERENT = [
    ("-5", "5"),
    ("1/2", "12"),
    ("1.5", "15"),
    ("x+1", "x-1"),
    ("(3,4)", "(34)"),
    ("(1,000)", "(1000)"),
    ("0.33", "1/3"),
    ("", ""),
    ("1/0", "1"),
    ("5", "five"),
    ("[1,2)", "(1,2)"),
    ("3", "3.0001"),
    ("1,23", "123"),
    ("100, 200", "100200"),
    ("2, 125", "2125"),
    ("\\{100,200\\}", "\\{100200\\}"),
    ("0.5", "50"),
    ("\\frac{1}{0}", "1"),
]


@pytest.mark.parametrize(
    "a, b, same", [(*p, True) for p in SAME] + [(*p, False) for p in DIFFERENT]
)
def test_math_equal(a, b, same):
    assert math_equal(a, b) == same and math_equal(b, a) == same


@pytest.mark.parametrize(
    "text",
    [
        "9" * 10**6,
        "5^(5^(5^(5^5)))",
        "\\boxed{" * 1000,
        "1e999999999",
        "\0",
        "{" * 10**5,
        "\\frac" * 1000,
        "1" + ",000" * 10**4,
    ],
)
def test_math_equal_survives(text):
    assert math_equal(text, "1") is False


@pytest.fixture(params=[True, False], ids=["math_verify", "alone"])
def verifier(request, monkeypatch):
    """The tables hold with Math-Verify and without."""
    if request.param:
        pytest.importorskip("math_verify")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    comparing._same_math.cache_clear()


@pytest.mark.parametrize("line", EQUAL.strip().split("\n"))
def test_equal_answers(line, verifier):
    first, *others = line.split(" | ")
    for other in others:
        assert math_equal(first, other) and math_equal(other, first), (first, other)
    assert math_equal(f"\\boxed{{{first}}}", f"$ {others[-1]} $")


@pytest.mark.parametrize("line", UNEQUAL.strip().split("\n"))
def test_unequal_answers(line, verifier):
    a, b = line.split(" | ")
    assert not math_equal(a, b) and not math_equal(b, a)


class Jail:
    """Stands in for the sandbox: keeps what it is asked to run and answers with a fixed result."""

    def __init__(self, status="error", text=""):
        self.status, self.text, self.asked = status, text, []

    def run(self, code):
        self.asked.append(code)
        return ToolResult(self.status, self.text, 0.0)


@pytest.fixture
def jail(monkeypatch):
    stand_in = Jail()
    monkeypatch.setattr(comparing, "grader_jail", lambda: stand_in)
    comparing._same_math.cache_clear()
    yield stand_in
    comparing._same_math.cache_clear()


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("1/2", "0.50", True),
        ("(1, \\frac12)", "(1,0.5)", True),
        ("[1,2)", "(1,2)", False),
        ("2, 1", "\\{1,2\\}", True),
        ("1, 2", "1, 3", False),
        ("5 \\text{ cm}", "5", True),
        ("5 cm", "5 \\text{ m}", False),
        ("x < 1 or x > 3", "(3,\\infty)\\cup(-\\infty,1)", True),
        ("50\\%", "0.5", True),
        ("\\text{Evelyn}", "evelyn", True),
        ("listen", "silent", False),
        ("17_9", "17", False),
    ],
)
def test_strings_rationals_and_structure_need_no_sandbox(a, b, same, jail):
    assert math_equal(a, b) == same and not jail.asked


def test_without_sympy_algebra_is_wrong_not_an_error(jail):
    """What the sandbox prints before it fails is no verdict, nor is a line without bits."""
    for status, text in [
        ("error", "ModuleNotFoundError: No module named 'sympy'"),
        ("timeout", "1"),
        ("crashed", "1"),
        ("ok", "(no output)"),
        ("output_limit", "1"),
    ]:
        comparing._same_math.cache_clear()
        jail.status, jail.text = status, text
        assert math_equal("x+1", "1+x") is False


def test_a_verdict_is_remembered_but_not_its_absence(jail):
    jail.status = "infra"
    assert math_equal("x+1", "1+x") is False
    jail.status, jail.text = "ok", "a warning\n1"
    assert math_equal("x+1", "1+x") and math_equal("1+x", "x+1") and math_equal("x+1", "1+x")
    assert len(jail.asked) == 2


# most wait for the sandbox's deadline
@pytest.mark.parametrize(
    "text",
    HANGS[:2] + [pytest.param(text, marks=pytest.mark.slow) for text in HANGS[2:]],
    ids=range(len(HANGS)),
)
def test_hang_strings_are_wrong_within_seconds(text):
    # the sandbox's worker has started
    math_equal("x+1", "1+x")
    started = time.perf_counter()
    assert math_equal(text, "x+\\sqrt{2}") is False
    # the sandbox's deadline and a busy machine
    assert time.perf_counter() - started < 8


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_wrong_and_never_runs(text, tmp_path):
    text = text.replace("{file}", str(tmp_path / "ran"))
    # Math-Verify reads a quoted 1 as 1; 1' is a foot, and a unit may be left out
    quoted = text in ("'1'", '"1"') and importlib.util.find_spec("math_verify")
    quoted = quoted or text == "\\text{1}'"
    for gold in ("1", "x+1", "\\sqrt{2}", "1, x", "\\sum_{k=1}^{2} k")[1 if quoted else 0 :]:
        assert math_equal(text, gold) is False and math_equal(gold, text) is False
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_properties_of_math_equal(jail):
    """Never an exception, symmetric; a text equals itself unless it is empty; without a sandbox."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    latex = st.lists(
        st.sampled_from(
            (
                r"1 2 10 .5 x y e i \pi \frac \sqrt \sin \log_2 \text{cm} \text \left( \right) "
                r"\{ \} ( ) [ ] { } , ; \cup \infty = < \le \pm + - * / ^ _ ! | % ^\circ & \\ "
                r"\begin{pmatrix} \end{pmatrix} \boxed{ or"
            ).split()
            + [" ", "−", "«", "\n", "'", '"']
        ),
        max_size=20,
    ).map("".join)

    @hypothesis.settings(max_examples=600, deadline=None)
    @hypothesis.given(st.one_of(latex, st.text()), st.one_of(latex, st.text()))
    def check(a, b):
        assert math_equal(a, b) == math_equal(b, a)
        assert math_equal(a, a) == (plain_math(a) != "")
        code = code_of(plain_math(a))
        if code:
            only_our_words(code)

    check()


def test_rationals_agree_with_fractions(jail):
    hypothesis = pytest.importorskip("hypothesis")
    number = hypothesis.strategies.integers(-300, 300)
    spellings = [
        lambda p, q: f"{p}/{q}",
        lambda p, q: f"\\frac{{{p}}}{{{q}}}",
        lambda p, q: f"-\\dfrac{{{-p}}}{{{q}}}",
        lambda p, q: f"x = {3 * p}/{3 * q}",
        lambda p, q: "-" * (p < 0) + f"{abs(p) // q}\\frac{{{abs(p) % q}}}{{{q}}}",
    ]

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(
        number,
        number.map(abs),
        number,
        number.map(abs),
        hypothesis.strategies.sampled_from(spellings),
        hypothesis.strategies.sampled_from(spellings),
    )
    def check(p, q, r, s, write, rewrite):
        q, s = q + 1, s + 1
        assert math_equal(write(p, q), rewrite(r, s)) == (Fraction(p, q) == Fraction(r, s))
        assert math_equal(write(p, q), rewrite(2 * p, 2 * q))

    check()


def test_polynomials_agree_with_their_coefficients():
    """(x+a)(x+b)(x+c) against its expansion, exact and with one coefficient changed."""
    for a, b, c in [(1, 2, 3), (-4, 0, 7), (5, -5, 2)]:
        e1, e2, e3 = a + b + c, a * b + b * c + c * a, a * b * c
        for change in (0, 1):
            assert math_equal(
                f"(x{a:+})(x{b:+})(x{c:+})", f"x^3 + {e1}x^2 + ({e2})x {e3 + change:+}"
            ) == (change == 0)
            assert math_equal(
                f"y = (x{a:+})(x{b:+})(x{c:+})",
                f"2y - 2x^3 = 2({e1})x^2 + 2({e2})x + 2({e3 + change})",
            ) == (change == 0)


def test_math_verify_is_not_asked_what_has_an_answer():
    """It takes 5m for 5%."""
    assert not math_equal("5 m", "5\\%") and not math_equal("5x", "5\\%")


def test_math_verify_is_asked_what_our_grammar_does_not_know():
    pytest.importorskip("math_verify")
    assert (
        math_equal("\\sum_{k=1}^{10} k", "55")
        and math_equal("55", "\\sum_{k=1}^{10} k")
        and not math_equal("\\sum_{k=1}^{10} k", "56")
    )
    assert math_equal("\\int_0^1 x dx", "\\frac{1}{2}") and not math_equal(
        "\\overline{AB}", "\\overline{CD}"
    )


def test_math_verify_is_asked_for_sums_and_the_like_alone():
    pytest.importorskip("math_verify")
    assert math_equal("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}")
    assert not math_equal("\\sum_{k=1}^{3} f(2k)", "\\sum_{k=1}^{3} 2f(k)")
