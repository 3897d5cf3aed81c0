"""LaTeX as Python made of our own words."""

import itertools
import re

from support.latex import DEPTH, FUNCTIONS, GREEK, WORDS

OPEN = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


SUBSCRIPT = r"(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?"


TOKEN = rf"[0-9]+\.?[0-9]*|\.[0-9]+|\\[A-Za-z]+{SUBSCRIPT}|(?:{WORDS}|pi)(?![A-Za-z])|[A-Za-z]{SUBSCRIPT}|[-+*/^!|(){{}}\[\]°]"


def _code(text: str) -> str | None:
    """Plain LaTeX as Python made of our own words (sympy's functions, numbers, v("x") for a symbol); None if a token is not one of ours."""
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
    """Recursive descent over tokens of LaTeX: each method reads one construct and returns it as Python. ValueError, IndexError: none of ours."""

    def __init__(self, tokens: list[str]):
        # the next token comes last
        self.rest, self.bars = [""] + tokens[::-1], 0

    def take(self, *wanted: str) -> str:
        if wanted and self.rest[-1] not in wanted:
            raise ValueError(self.rest[-1])
        return self.rest.pop()

    def sum(self) -> str:
        code = self.take() if self.rest[-1] in ("+", "-") else ""
        code += self.product()
        while self.rest[-1] in ("+", "-"):
            code += self.take() + self.product()
        return f"({code})"

    def product(self) -> str:
        code = self.power()
        while True:
            if self.rest[-1] in ("*", "/", "\\times", "\\cdot"):
                code += "/" if self.take() == "/" else "*"
                code += (
                    f"(-{self.power()})" if self.rest[-1] == "-" and self.take() else self.power()
                )
            elif self.factor_follows():
                code += "*" + self.power()
            else:
                return code

    def factor_follows(self) -> bool:
        token = self.rest[-1]
        return (
            token in OPEN
            and not (token == "|" and self.bars)
            or token[:1].isalnum()
            or (
                token[:1] == "\\"
                and token not in OPEN.values()
                and token not in ("\\times", "\\cdot")
            )
        )

    def power(self) -> str:
        code = self.atom()
        if self.rest[-1] == "!":
            self.take()
            code = f"factorial({code})"
        if self.rest[-1] == "^":
            self.take()
            code = f"({code}**{self.argument()})"
        return f"({code}*pi/180)" if self.rest[-1] == "°" and self.take() else code

    def argument(self) -> str:
        sign = self.take() if self.rest[-1] in ("+", "-") else ""
        return f"({sign}{self.atom()})"

    def atom(self) -> str:
        token = self.take()
        if token[:1].isdigit() or token[:1] == ".":
            number = f"Rational('{token}')" if "." in token else f"Integer({int(token)})"
            mixed = token.isdigit() and re.fullmatch(
                r"\\frac\{[0-9]+\}\{[0-9]+\}", "".join(self.rest[-7:][::-1])
            )
            return f"({number} + {self.atom()})" if mixed else number
        if token in OPEN:
            self.bars += token == "|"
            code = self.sum()
            self.bars -= self.take(OPEN[token]) == "|"
            return {"|": "Abs", "\\lfloor": "floor", "\\lceil": "ceiling"}.get(token, "") + code
        if token in ("\\frac", "\\binom"):
            a, b = self.argument(), self.argument()
            return f"({a}/{b})" if token == "\\frac" else f"binomial({a}, {b})"
        name = token.lstrip("\\")
        if name == "sqrt" and self.rest[-1] == "[":
            index = self.atom()
            return f"real_root({self.argument()}, {index})"
        return (
            self.function(name) if name.partition("_")[0] in FUNCTIONS else self.symbol(token, name)
        )

    def symbol(self, token: str, name: str) -> str:
        if name in ("pi", "e", "i"):
            return {"pi": "pi", "e": "E", "i": "I"}[name]
        letter = name.partition("_")[0]
        if not (letter in GREEK if token[:1] == "\\" else len(letter) == 1 and letter.isalpha()):
            raise ValueError(token)
        return f'v("{name}")'

    def function(self, name: str) -> str:
        name, base = name.partition("_")[0], name.partition("_")[2].strip("{}")
        if base and (name != "log" or not base.isdigit()):
            raise ValueError(base)
        exponent = self.argument() if self.rest[-1] == "^" and self.take() else ""
        # sin^{-1}: the inverse or the reciprocal?
        if "-" in exponent:
            raise ValueError(exponent)
        if self.rest[-1] in ("(", "[", "{", "|"):
            code = self.atom()
        else:
            code = self.power()
            while (
                self.factor_follows()
                and self.rest[-1] not in ("(", "[")
                and self.rest[-1].lstrip("\\").partition("_")[0] not in FUNCTIONS
            ):
                code += "*" + self.power()
        code = f"{FUNCTIONS[name]}({code}" + (
            f", {base})" if base else ", 10)" if name == "lg" else ")"
        )
        return f"({code}**{exponent})" if exponent else code
