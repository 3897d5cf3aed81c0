"""Python code without the dress that models give it.

1. _without_blanks   line ends are line feeds; blanks and characters of no width go at both ends
2. _blocks           of text with Markdown fences on their lines the code between them is left
3. _unfenced         a fence on the line of code goes
4. _spaced           odd spaces before code are spaces
5. _unprompted       of a session with ">>> " the code is left
6. _unindented       the indentation that all lines share goes
`plain_code` is all of this.

Nothing of it is run or parsed here: LITERAL tells where strings end, Python's tokenizer where
brackets do.
Standard library only.
"""

import io
import os
import re
import string
import tokenize
import unicodedata

# of Markdown around code: marks, and in which language it is
LANGUAGE = r"(?:\w+|\{\.?[A-Za-z][^}\n]*\})[ \t]*"
FENCE = rf"(`{{3,}}|~{{3,}})[ \t]*(?:(?:python|py)[\d.]*(?=\s)|{LANGUAGE}(?=\n))?"
FENCE_LINE = rf"[ \t]*(`{{3,}})[ \t]*({LANGUAGE})?"
# A comment or a string. An open one ends with its line or the text, so that it is read once.
LITERAL = (
    r"#[^\n]*|('{3}|\"{3})(?:\\.|.)*?(?:\1|\Z)"
    r"|'(?:\\.|[^'\\\n])*('?)|\"(?:\\.|[^\"\\\n])*(\"?)"
)
# characters; the indentation of longer code is not mended
LONGEST_CODE = 20_000
# a fence in a fence in a fence
FENCES = 3
LAYOUT = (tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)


def plain_code(text: str) -> str:
    """Code as Python takes it, without the dress that models give it.

    Off go Markdown fences with the text outside of them, and the prompts of a session. So do
    blanks at the ends, carriage returns, and the indentation that all lines share. Before code on a
    line an odd space is a space, and a character of no width is nothing.
    """
    code = _without_blanks(text)
    for _ in range(FENCES):
        code = _without_blanks(_unfenced(_blocks(code)))
    return _unindented(_unprompted(_spaced(code))).strip()


def _within_strings(code: str) -> set[int]:
    """The rows, from 0, that begin within a string."""
    within, row, place = set(), 0, 0
    for literal in re.finditer(LITERAL, code, re.DOTALL):
        row += code.count("\n", place, literal.start())
        place, first = literal.end(), row + 1
        row += literal[0].count("\n")
        within.update(range(first, row + 1))
    return within


def _blocks(text: str) -> str:
    """The lines between ``` and ```, of all blocks; text without such lines as it is.

    If some blocks are called Python, the others are none. The last block may not be closed. A lone
    fence behind all code closes it.
    """
    if "```" not in text:
        return text
    within, lines = _within_strings(text), text.split("\n")
    blocks, opened = [], None
    for row, line in enumerate(lines):
        fence = None if row in within else re.fullmatch(FENCE_LINE, line)
        if not fence:
            continue
        if not opened:
            opened, start = fence, row
        elif not fence[2] and len(fence[1]) >= len(opened[1]):
            blocks.append((opened[2] or "", lines[start + 1 : row]))
            opened = None
    if opened and "".join(lines[start + 1 :]).strip():
        blocks.append((opened[2] or "", lines[start + 1 :]))
    elif opened and not blocks:
        return "\n".join(lines[:start])
    if not blocks:
        return text
    python = [block for block in blocks if re.match("(?i)(?:python|py)[\\d.]*\\s*$", block[0])]
    return "\n".join(["", *(line for _, block in python or blocks for line in block)])


def _unprompted(code: str) -> str:
    """The code of a session with ">>> " and "... "; other code as it is."""
    if not code.lstrip().startswith(">>> "):
        return code
    # imported here, since it is seldom needed
    import doctest

    try:
        return "".join(each.source for each in doctest.DocTestParser().get_examples(code))
    except ValueError:
        return code


def _spaced(code: str) -> str:
    """Before code on a line, odd spaces are spaces and characters of no width are nothing."""
    if code.isascii():
        return code
    within = _within_strings(code)
    return "\n".join(
        line if row in within else _with_plain_margin(line)
        for row, line in enumerate(code.split("\n"))
    )


def _with_plain_margin(line: str) -> str:
    code = line.lstrip(" \t" + "".join(c for c in set(line) if _kind(c) in ("Zs", "Cf")))
    margin = line[: len(line) - len(code)]
    return "".join(" " if _kind(c) == "Zs" else c for c in margin if _kind(c) != "Cf") + code


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
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    blanks = string.whitespace + "".join(c for c in set(text) if _kind(c) == "Cf")
    text = text.rstrip(blanks)
    code = text.lstrip(blanks)
    head = text[: len(text) - len(code)]
    return "".join(c for c in head if c in string.whitespace) + code


def _kind(character: str) -> str:
    """Zs for a space, Cf for a mark of no width, such as U+200B, another for other characters."""
    return unicodedata.category(character)


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
    # on a string that does not end the tokenizer takes quadratic time
    if len(code) > LONGEST_CODE or any("" in s.groups() for s in re.finditer(LITERAL, code, re.S)):
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
