"""Python code without the dress that models give it.

    plain_code   fences, the text around a lone block, blanks, carriage returns and the shared
                 indentation go

Nothing of it is run or parsed here: LITERAL tells where strings end, Python's tokenizer where
brackets do.
Standard library only.
"""

import io
import os
import re
import string
import tokenize

# of Markdown around code: marks, and in which language it is
LANGUAGE = r"(?:\w+|\{\.?[A-Za-z][^}\n]*\})[ \t]*"
FENCE = rf"(`{{3,}}|~{{3,}})[ \t]*(?:(?:python|py)[\d.]*(?=\s)|{LANGUAGE}(?=\n))?"
FENCE_LINE = rf"[ \t]*(`{{3,}})[ \t]*({LANGUAGE})?"
# A comment or a string. An open one ends with its line or the text, so that it is read once.
LITERAL = (
    r"#[^\n]*|('{3}|\"{3})(?:\\.|.)*?(?:\1|\Z)"
    r"|'(?:\\.|[^'\\\n])*'?|\"(?:\\.|[^\"\\\n])*\"?"
)
# white space, byte-order mark and characters of no width
BLANKS = string.whitespace + "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
# characters; the indentation of longer code is not mended
LONGEST_CODE = 20_000
LAYOUT = (tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)


def plain_code(text: str) -> str:
    """Code as Python takes it, without the dress that models give it.

    Off go a Markdown fence around it, with the text before and after the fence, blanks and
    characters of no width at its ends, carriage returns, and the indentation that all its lines
    share. A no-break space at the start of a line is a space.
    """
    code = _without_blanks(_unfenced(_only_block(_without_blanks(text))))
    return _unindented(_spaced(code)).strip()


def _within_strings(code: str) -> set[int]:
    """The rows, from 0, that begin within a string."""
    within, row, place = set(), 0, 0
    for literal in re.finditer(LITERAL, code, re.DOTALL):
        row += code.count("\n", place, literal.start())
        place, first = literal.end(), row + 1
        row += literal[0].count("\n")
        within.update(range(first, row + 1))
    return within


def _only_block(text: str) -> str:
    """The lines of the one block between ``` and ``` with text around it; other text as it is."""
    if "```" not in text:
        return text
    within, lines = _within_strings(text), text.split("\n")
    fences = [
        (row, fence[1], fence[2])
        for row, line in enumerate(lines)
        if row not in within and (fence := re.fullmatch(FENCE_LINE, line))
    ]
    if len(fences) != 2:
        return text
    (start, mark, _), (end, closing, language) = fences
    around = "".join(lines[:start] + lines[end + 1 :]).strip()
    if not around or closing != mark or language:
        return text
    return "\n".join(["", *lines[start + 1 : end]])


def _spaced(code: str) -> str:
    """With spaces for the no-break spaces at the start of lines, but not within strings."""
    if "\u00a0" not in code:
        return code
    within = _within_strings(code)
    return "\n".join(
        line
        if row in within
        else re.sub(r"^[ \t\u00a0]*", lambda margin: margin[0].replace("\u00a0", " "), line)
        for row, line in enumerate(code.split("\n"))
    )


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

    Comments and lines within strings may stand further left. A first line beside the tag has no
    indentation. Then nothing changes if Python's tokenizer takes the code as it is, or finds more
    wrong with it.
    """
    if "\n" not in code:
        return code
    within = _within_strings(code)
    first, *lines = code.split("\n")
    first, rest = first.strip(), "\n".join(lines)
    indents = [
        line[: len(line) - len(line.lstrip(" \t"))]
        for row, line in enumerate(lines, 1)
        if row not in within and line.strip() and line.lstrip()[0] != "#"
    ]
    margin = os.path.commonprefix(indents)
    if not margin or (first and _tokens(f"{first}\n{rest}") is not None):
        return code
    if first and _tokens(f"if 1:\n{margin}{first}\n{rest}") is None:
        return code
    lines = [
        line if row in within else line.removeprefix(margin) for row, line in enumerate(lines, 1)
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
