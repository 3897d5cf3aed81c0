"""Python code without the dress that models give it.

    plain_code   fences, blanks, carriage returns and shared indentation go

Nothing of it is run or parsed here: Python's tokenizer tells where strings and brackets end.
Standard library only.
"""

import io
import os
import re
import string
import tokenize

# of Markdown around code: marks, and in which language it is
FENCE = r"(`{3,}|~{3,})[ \t]*(?:(?:python|py)[\d.]*(?=\s)|\w+[ \t]*(?=\n))?"
# white space, byte-order mark and characters of no width
BLANKS = string.whitespace + "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
# characters; the indentation of longer code is not mended
LONGEST_CODE = 20_000
LAYOUT = (tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)


def plain_code(text: str) -> str:
    """Code as Python takes it, without the dress that models give it.

    Off go a Markdown fence around it, blanks and characters of no width at its ends, carriage
    returns, and the indentation that all its lines share.
    """
    return _unindented(_without_blanks(_unfenced(_without_blanks(text)))).strip()


def _unfenced(code: str) -> str:
    """The code between ```, where the last may be missing, or between ~~~ and ~~~."""
    marked = code.strip()
    fence = re.match(FENCE, marked, re.IGNORECASE)
    if not fence:
        return code
    mark, inner = fence[1][0], marked[fence.end() :]
    # ~~~5 is Python
    if mark == "~" and not inner.endswith("~~~"):
        return code
    return inner.rstrip(mark)


def _without_blanks(text: str) -> str:
    """Lines end with a line feed; at the beginning only white space is left of the blanks."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip(BLANKS)
    code = text.lstrip(BLANKS)
    head = text[: len(text) - len(code)]
    return "".join(c for c in head if c in string.whitespace) + code


def _unindented(code: str) -> str:
    """Without the indentation that all lines share; strings over several lines keep it.

    A first line beside the tag has no indentation. Then nothing changes if Python's tokenizer
    takes the code as it is, or finds more wrong with it.
    """
    first, _, rest = code.partition("\n")
    first, lines = first.strip(), rest.split("\n")
    indents = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
    margin = os.path.commonprefix(indents)
    if not margin or (first and _tokens(f"{first}\n{rest}") is not None):
        return code
    # Row 2 is the first line.
    tokens = _tokens(f"if 1:\n{margin}{first or 'pass'}\n{rest}")
    if first and tokens is None:
        return code
    within = {row for t in tokens or [] for row in range(t.start[0] + 1, t.end[0] + 1)}
    lines = [
        line if row in within else line.removeprefix(margin) for row, line in enumerate(lines, 3)
    ]
    return "\n".join([first, *lines])


def _tokens(code: str) -> list[tokenize.TokenInfo] | None:
    """The tokens of code but for its layout; None if indentation or brackets are wrong.

    Code of the model is not parsed here: Python's parser can neither be stopped nor limited.
    """
    if len(code) > LONGEST_CODE:
        return None
    found, last = [], ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.INDENT and last != ":":
                return None
            if token.type not in LAYOUT:
                found.append(token)
                last = token.string
    except (tokenize.TokenError, SyntaxError):
        return None
    return found
