"""support/algebra.py: what the sandbox runs is made of our own words."""

import ast

import pytest
from answers import EQUAL, HANGS, HOSTILE, UNEQUAL

from support.algebra import code_of

STRUCTURE = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Load)
# the variable of a derivative
STRUCTURE += (ast.Lambda, ast.arguments, ast.arg)


def only_our_words(code):
    """Is this Python made of numbers, + - * / and calls of mathematical functions alone?"""
    functions = {
        "Integer",
        "Rational",
        "Abs",
        "floor",
        "ceiling",
        "factorial",
        "binomial",
        "real_root",
        "sqrt",
        "log",
        "exp",
        "v",
        "power",
        "factorial2",
        *(h + f for f in ("sin", "cos", "tan", "cot", "sec", "csc") for h in ("", "a")),
        *(h + f for f in ("sinh", "cosh", "tanh") for h in ("", "a")),
        "coth",
        *("Max", "Min", "igcd", "ilcm"),
        "derivative",
    }
    for node in ast.walk(ast.parse(code, mode="eval")):
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name) and node.func.id in functions, code
        elif isinstance(node, ast.Name):
            assert node.id in functions | {"pi", "E", "I"}, code
        elif isinstance(node, ast.Constant):
            assert (
                isinstance(node.value, (int, str))
                and str(node.value)
                .replace("_", "")
                .replace("{", "")
                .replace("}", "")
                .replace(".", "")
                .isalnum()
            ), code
        else:
            assert isinstance(node, STRUCTURE) and getattr(node, "arg", "v") == "v", code


def test_what_the_sandbox_runs_is_made_of_our_words():
    pieces = [part for line in (EQUAL + UNEQUAL).split("\n") for part in line.split(" | ")]
    codes = [code for code in map(code_of, pieces + HOSTILE + HANGS[:24]) if code]
    assert len(codes) > 100
    for code in codes:
        only_our_words(code)


@pytest.mark.parametrize(
    "text, code",
    [
        ("3+-2", "(Integer(3)-Integer(2))"),
        ("x--2", '(v("x")+Integer(2))'),
        ("2\\log_2x", '(Integer(2)*log(v("x"), (Integer(2))))'),
        ("2\\alpha_1", '(Integer(2)*v("alpha_1"))'),
        ("\\log_{1/2}4", "(log(Integer(4), ((Integer(1)/Integer(2)))))"),
        ("\\sin^{-1}x", '(asin(v("x")))'),
        ("\\max(3,5)", "(Max((Integer(3)), (Integer(5))))"),
        ("5!!", "(factorial2(Integer(5)))"),
        ("x^{1/3}", '(power(v("x"), ((Integer(1)/Integer(3)))))'),
        # refused: a reciprocal or an inverse, a composition, a list, a set
        ("\\sin^{-2}x", None),
        ("f°g", None),
        ("\\frac{d}{dx}x", '(derivative(lambda v: v("x"), v, "x", 1))'),
        ("\\frac{d^3}{dx^3}x", '(derivative(lambda v: v("x"), v, "x", 3))'),
        ("\\frac{\\partial}{\\partial x}xy", '(derivative(lambda v: v("x")*v("y"), v, "x", 1))'),
        # what may depend on x, an operator alone
        ("\\frac{d}{dx}xy", None),
        ("\\frac{d}{dx}f(x)", None),
        ("\\frac{d}{dx}", None),
        # derivatives, products of matrices, the inverse of a function
        ("\\frac{dy}{dx}", None),
        ("dy/dx", None),
        ("P^{-1}AP", None),
        ("f^{-1}(x)", None),
        # the same letter inside: a product
        ("N(N+1)", '(v("N")*(v("N")+Integer(1)))'),
        ("y(x+1)", '(v("y")*(v("x")+Integer(1)))'),
        ("1,2", None),
        ("\\{1\\}", None),
        ("\\ln_2x", None),
    ],
)
def test_code(text, code):
    assert code_of(text) == code


def test_a_function_of_something_is_a_symbol_of_its_own():
    texts = ["f(x)", "f(x+1)", "f(f(x))", "g(x)", "fx", "f_1(x)", "y(0)", "\\phi(6)"]
    codes = [code_of(text) for text in texts]
    assert len(set(codes)) == len(texts) and None not in codes
    for code in codes:
        only_our_words(code)
    assert code_of("2f(x)") == "(Integer(2)*" + code_of("f(x)")[1:]
    # the text does not grow with each bracket
    assert len(code_of("f(" * 12 + "x" + ")" * 12)) < 100
