"""An expression in plain LaTeX as Python made of our own words, for sympy to compute.

    code_of   Python of numbers, + - * / **, sympy's functions and v("x") for a symbol

Nothing of the text itself reaches the Python: every token is translated or refused.
"""

import itertools
import re

from support.latex import FUNCTIONS, GREEK

# nesting of brackets that is still read
DEPTH = 30
OPEN = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
ROUNDING = {"|": "Abs", "\\lfloor": "floor", "\\lceil": "ceiling"}
TIMES = ("\\times", "\\cdot")
CONSTANTS = {"pi": "pi", "e": "E", "i": "I"}

WORDS = "|".join(sorted(FUNCTIONS, key=len, reverse=True))
SUBSCRIPT = r"(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?"
TOKEN = "|".join(
    [
        r"[0-9]+\.?[0-9]*|\.[0-9]+",
        rf"\\[A-Za-z]+{SUBSCRIPT}",
        rf"(?:{WORDS}|pi)(?![A-Za-z])",
        rf"[A-Za-z]{SUBSCRIPT}",
        r"[-+*/^!|(){}\[\]°]",
    ]
)


def code_of(text: str) -> str | None:
    """Plain LaTeX as Python; None if a token is none of ours."""
    tokens = re.findall(TOKEN, text)
    depths = itertools.accumulate((t in OPEN) - (t in OPEN.values()) for t in tokens)
    if "".join(tokens) != text.replace(" ", "") or max(depths, default=DEPTH + 1) > DEPTH:
        return None
    try:
        reader = _Reader(tokens)
        code = reader.sum()
        return code if reader.rest == [""] else None
    except (ValueError, IndexError, RecursionError):
        return None


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
        """-2x + 1"""
        code = self.take() if self.follows("+", "-") else ""
        code += self.product()
        while self.follows("+", "-"):
            code += self.take() + self.product()
        return f"({code})"

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
        if self.follows("-"):
            self.take()
            return f"(-{self.power()})"
        return self.power()

    def factor_follows(self) -> bool:
        """Does a factor begin without a sign of multiplication?"""
        token = self.rest[-1]
        if token in OPEN:
            return not (token == "|" and self.bars)
        if token[:1] == "\\":
            return token not in OPEN.values() and token not in TIMES
        return token[:1].isalnum()

    def power(self) -> str:
        """n!, x^2, 90°"""
        code = self.atom()
        if self.follows("!"):
            self.take()
            code = f"factorial({code})"
        if self.follows("^"):
            self.take()
            code = f"({code}**{self.argument()})"
        if self.follows("°"):
            self.take()
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
            return f"({self.argument()}/{self.argument()})"
        if token == "\\binom":
            return f"binomial({self.argument()}, {self.argument()})"
        if name == "sqrt" and self.follows("["):
            index = self.atom()
            return f"real_root({self.argument()}, {index})"
        if name.partition("_")[0] in FUNCTIONS:
            return self.function(name)
        return self.symbol(token, name)

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
        return f'v("{name}")'

    def function(self, name: str) -> str:
        """\\sin^2 x, \\log_2 8, \\ln(x)"""
        name, _, base = name.partition("_")
        base = base.strip("{}")
        if base and (name != "log" or not base.isdigit()):
            raise ValueError(base)
        exponent = ""
        if self.follows("^"):
            self.take()
            exponent = self.argument()
        # sin^{-1}: the inverse or the reciprocal?
        if "-" in exponent:
            raise ValueError(exponent)
        tail = f", {base})" if base else ", 10)" if name == "lg" else ")"
        code = f"{FUNCTIONS[name]}({self.operand()}{tail}"
        return f"({code}**{exponent})" if exponent else code

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
