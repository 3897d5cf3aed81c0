"""An expression in plain LaTeX as Python made of our own words, for sympy to compute.

    1. code_of        Python of numbers, + - * /, power, sympy's functions and v("x") for a symbol
    2. is_constant    is it an expression of numbers alone?

Nothing of the text itself reaches the Python: every token is translated or refused.
"""

import hashlib
import itertools
import re

from support.characters import GREEK
from support.latex import FUNCTIONS, OF_SEVERAL
from support.names import CALLED

# nesting of brackets that is still read
DEPTH = 30
OPEN = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
ROUNDING = {"|": "Abs", "\\lfloor": "floor", "\\lceil": "ceiling"}
TIMES = ("\\times", "\\cdot")
CONSTANTS = {"pi": "pi", "e": "E", "i": "I"}
# f^{-1} of these is the inverse, as in \sin^{-1} x = \arcsin x
INVERTED = {name for name in FUNCTIONS.values() if "a" + name in FUNCTIONS.values()}
# -1 as an exponent in Python
INVERSES = ("((-Integer(1)))", "(-Integer(1))")

# dy/dx is no quotient
DIFFERENTIALS = (
    r"\\frac\{ ?d(?:\^\{?\d\}?)? ?\(?[^{}^]+\}\{ ?d ?[A-Za-z\\(]|"
    r"(?<![A-Za-z])d(?:\^\{?\d\}?)? ?[A-Za-z]?/d[A-Za-z]"
)
# d/dx, \partial^2/\partial x^2, without spaces
OPERATOR = (
    r"\{(?P<d>d|\\partial)(?:\^\{?(?P<order>[2-4])\}?)?\}"
    r"\{(?P=d)(?P<letter>[A-Za-z])(?:\^\{?(?P=order)\}?)?\}"
)
# products of matrices do not commute: an inverse or a transpose beside another capital
_INVERTED = r"(?:[A-Z]|\([A-Z]{2,}\))\^(?:\{-1\}|\{?T\}?|-1)"
MATRICES = rf"[A-Z] ?{_INVERTED}|{_INVERTED} ?[A-Z]|\([A-Z]{{2,}}\)\^(?:\{{-1\}}|\{{?T\}}?|-1)"
# f of x is no product, nor is y of 0; y(x + 1) is
ALWAYS_CALLED = rf"\\?(?:{CALLED})(?:_.+)?"
SOMETIMES_CALLED = r"[uvy](?:_.+)?"

WORDS = "|".join(sorted(FUNCTIONS, key=len, reverse=True))
SUBSCRIPT = r"(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?"
TOKEN = "|".join(
    [
        r"[0-9]+\.?[0-9]*|\.[0-9]+",
        rf"\\[A-Za-z]+{SUBSCRIPT}",
        rf"(?:{WORDS}|pi)(?![A-Za-z])",
        rf"[A-Za-z]{SUBSCRIPT}",
        r"\\[{}]|[-+*/^!|(){}\[\]°_,]",
    ]
)


def code_of(text: str) -> str | None:
    """Plain LaTeX as Python; None if a token is none of ours."""
    tokens = re.findall(TOKEN, text)
    depths = itertools.accumulate((t in OPEN) - (t in OPEN.values()) for t in tokens)
    if re.search(f"{DIFFERENTIALS}|{MATRICES}", text):
        return None
    if "".join(tokens) != text.replace(" ", "") or max(depths, default=DEPTH + 1) > DEPTH:
        return None
    try:
        reader = _Reader(tokens)
        code = reader.sum()
        return code if reader.rest == [""] else None
    except (ValueError, IndexError, RecursionError):
        return None


def is_constant(text: str) -> bool:
    """Is it an expression of numbers alone?"""
    code = code_of(text)
    return code is not None and "v(" not in code


class _Reader:
    """Recursive descent: each method reads one construct and returns it as Python.

    ValueError or IndexError: what comes next is none of our constructs.
    """

    def __init__(self, tokens: list[str]):
        # The next token comes last; "" is the end.
        self.rest = [""] + tokens[::-1]
        # open absolute values: the next "|" closes one
        self.bars = 0

    def take(self, *wanted: str) -> str:
        """The next token, which must be one of those wanted, if any are named."""
        if wanted and self.rest[-1] not in wanted:
            raise ValueError(self.rest[-1])
        return self.rest.pop()

    def follows(self, *tokens: str) -> bool:
        """Is the next token one of these?"""
        return self.rest[-1] in tokens

    def sum(self) -> str:
        """-2x + 1; signs may follow one another."""
        code = self.signs() + self.product()
        while self.follows("+", "-"):
            code += self.signs() + self.product()
        return f"({code})"

    def signs(self) -> str:
        """The one sign that several amount to, "" for none."""
        found = []
        while self.follows("+", "-"):
            found.append(self.take())
        return "+-"[found.count("-") % 2] if found else ""

    def product(self) -> str:
        """2x \\cdot y/3; factors may stand side by side."""
        code = self.power()
        while True:
            if self.follows("*", "/", *TIMES):
                code += "/" if self.take() == "/" else "*"
                code += self.signed_power()
            elif self.factor_follows():
                code += "*" + self.power()
            else:
                return code

    def signed_power(self) -> str:
        """x^2 or -x^2, after a sign of multiplication."""
        sign = self.signs()
        return f"({sign}{self.power()})" if sign else self.power()

    def factor_follows(self) -> bool:
        """Does a factor begin without a sign of multiplication?"""
        token = self.rest[-1]
        if token in OPEN:
            return not (token == "|" and self.bars)
        if token[:1] == "\\":
            return token[1:2].isalpha() and token not in (*OPEN.values(), *TIMES)
        return token[:1].isalnum()

    def power(self) -> str:
        """n!, x^2, 90°"""
        code = self.atom()
        if self.follows("!"):
            self.take()
            double = self.follows("!") and self.take()
            code = f"factorial2({code})" if double else f"factorial({code})"
        if self.follows("^"):
            self.take()
            code = f"power({code}, {self.argument()})"
        if self.follows("°"):
            self.take()
            # f \circ g is no product
            if code.startswith("v(") and self.factor_follows():
                raise ValueError("°")
            code = f"({code}*pi/180)"
        return code

    def argument(self) -> str:
        """What a command or ^ applies to: a bracket or one token, perhaps with a sign."""
        sign = self.take() if self.follows("+", "-") else ""
        return f"({sign}{self.atom()})"

    def atom(self) -> str:
        """A number, a bracket, a fraction, a root, a function or a symbol."""
        token = self.take()
        name = token.lstrip("\\")
        if token[:1].isdigit() or token[:1] == ".":
            return self.number(token)
        if token in OPEN:
            return self.bracket(token)
        if token == "\\frac":
            operator = re.match(OPERATOR, self.ahead())
            if operator:
                return self.derivative(operator)
            return f"({self.argument()}/{self.argument()})"
        if token == "\\binom":
            return f"binomial({self.argument()}, {self.argument()})"
        if name == "sqrt" and self.follows("["):
            index = self.atom()
            return f"real_root({self.argument()}, {index})"
        if name in OF_SEVERAL:
            return self.of_several(name)
        if name.partition("_")[0] in FUNCTIONS:
            return self.function(name)
        return self.symbol(token, name)

    def derivative(self, operator: re.Match) -> str:
        """\\frac{d}{dx} of the product that follows."""
        end = len(self.ahead()) - len(operator[0])
        while len(self.ahead()) > end:
            self.take()
        code, letter = self.product(), operator["letter"]
        # What may depend on x is no constant beside it.
        others = "[uvy]" if operator["d"] == "d" and letter not in "uvy" else "0"
        if "_of_" in code or f'v("{letter}")' not in code or re.search(rf'v\("{others}', code):
            raise ValueError(operator[0])
        return f'derivative(lambda v: {code}, v, "{letter}", {operator["order"] or 1})'

    def number(self, token: str) -> str:
        """5, 0.5 or 2\\frac{1}{3}"""
        code = f"Rational('{token}')" if "." in token else f"Integer({int(token)})"
        # 2\frac{1}{3}, tokens in reverse
        fraction = "".join(self.rest[-7:][::-1])
        mixed = token.isdigit() and re.fullmatch(r"\\frac\{[0-9]+\}\{[0-9]+\}", fraction)
        return f"({code} + {self.atom()})" if mixed else code

    def bracket(self, token: str) -> str:
        """(x), |x| or \\lfloor x \\rfloor"""
        self.bars += token == "|"
        code = self.sum()
        self.bars -= self.take(OPEN[token]) == "|"
        return ROUNDING.get(token, "") + code

    def symbol(self, token: str, name: str) -> str:
        """pi, e, i, a letter with or without a subscript, a Greek letter."""
        if name in CONSTANTS:
            return CONSTANTS[name]
        letter = name.partition("_")[0]
        if token[:1] == "\\":
            known = letter in GREEK
        else:
            known = len(letter) == 1 and letter.isalpha()
        if not known:
            raise ValueError(token)
        code = f'v("{name}")'
        called = re.fullmatch(ALWAYS_CALLED, token)
        if called and self.follows("^") and re.match(r"\^(?:.|\{.*?\})[(\[]", self.ahead()):
            raise ValueError(token)
        alone = re.match(r"[(\[](?:[A-Za-z]|-?[0-9]+)[)\]]", self.ahead())
        if self.follows("(", "[") and (called or (alone and re.fullmatch(SOMETIMES_CALLED, token))):
            return self.call(name, code)
        return code

    def ahead(self) -> str:
        """The tokens to come as text."""
        return "".join(self.rest[::-1])

    def call(self, name: str, code: str) -> str:
        """f(x + 1) as a symbol of its own; N(N + 1) is a product all the same."""
        argument = self.atom()
        if code in argument:
            return f"{code}*{argument}"
        # only letters and digits reach the sandbox
        return f'v("{name}_of_{hashlib.sha256(argument.encode()).hexdigest()}")'

    def of_several(self, name: str) -> str:
        """\\max(3, 5), also of a set"""
        closing = {"(": ")", "\\{": "\\}"}[self.take("(", "\\{")]
        codes = [self.sum()]
        while self.follows(","):
            self.take()
            codes.append(self.sum())
        self.take(closing)
        return f"{OF_SEVERAL[name]}({', '.join(codes)})"

    def function(self, name: str) -> str:
        """\\sin^2 x, \\sin^{-1} x, \\log_2 8, \\log_{1/2} 4, \\ln(x)"""
        name, base = self.base_of(name)
        function, exponent = FUNCTIONS[name], ""
        if self.follows("^"):
            self.take()
            exponent = self.argument()
        if exponent in INVERSES and function in INVERTED:
            function, exponent = f"a{function}", ""
        elif "-" in exponent:
            raise ValueError(exponent)
        code = f"{function}({self.operand()}{base and ', '}{base})"
        return f"power({code}, {exponent})" if exponent else code

    def base_of(self, name: str) -> tuple[str, str]:
        """The function's name, and the base of a logarithm as Python; "" is the natural one."""
        name, _, base = name.partition("_")
        base = base.strip("{}")
        if base:
            base = code_of(base) or "no base"
        elif self.follows("_"):
            self.take()
            base = self.argument()
        if base and (name != "log" or base == "no base"):
            raise ValueError(base)
        return name, "Integer(10)" if name == "lg" else base

    def operand(self) -> str:
        """What a function applies to: a bracket, or a product without brackets and functions."""
        if self.follows("(", "[", "{", "|"):
            return self.atom()
        code = self.power()
        while self.factor_follows() and not self.follows("(", "["):
            if self.rest[-1].lstrip("\\").partition("_")[0] in FUNCTIONS:
                break
            code += "*" + self.power()
        return code
