"""Lists that a cell of a table holds as text, as JSON, Python and numpy write them.

    1. listed        the list in an answer's text; "[1, 2]" is an interval and stays text
    2. chat_in       the messages in a prompt's text
    3. value_of      what either reads: the value that a text writes

Python reads ['Paris' 'City of Light'], as numpy prints it, as one string: value_of parts them.
"""

import ast
import json
import re

STRING = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
# of a text that writes a list: each token's name and how it looks
TOKENS = {
    "string": STRING,
    "dtype": rf",?\s*dtype=(?:{STRING}|[\w.]+)",
    "call": r"(?:(?:np|numpy)\.)?"
    r"(?:array|str_|bool_|u?int\d*|float\d*|set|frozenset|list|tuple)\s*(?=\()",
    "word": r"(?:null|None|NaN|nan|true|True|false|False|\.\.\.)(?![\w.])",
    "number": r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w)",
    "open": r"[\[({]",
    "close": r"[\])}]",
    "between": r"[,:]",
}
TOKEN = re.compile(r"\s*(?:" + "|".join(f"(?P<{k}>{v})" for k, v in TOKENS.items()) + r")\s*")
# words that Python spells otherwise; not a number is no answer
PYTHON = {"null": "None", "NaN": "None", "nan": "None", "true": "True", "false": "False"}
CHAT = r"(?:array\(\s*)?\[\s*\{\s*['\"](?:role|content)['\"].*\]\s*(?:,\s*dtype=object\s*)?\)?"
CHAT_ROLES = {"system", "developer", "user", "assistant", "tool"}


def listed(text: str) -> list | None:
    """The items of the list, tuple or set that an answer's text writes; of {"target": x} it is [x].

    None if it writes none, or only numbers, which may be an interval, a point or a matrix.
    Raises: ValueError for an object without "target", a list cut off at "...", quotation marks that
            do not pair, or LaTeX whose backslashes are not doubled: "\\f" of "\\frac" is a control
            character.
    """
    value = value_of(text)
    if value is None and _is_broken(text):
        raise ValueError(f"has a list whose quotation marks do not pair: {_short(text)}")
    if not isinstance(value, (list, tuple, set, dict)) or not _has_words(value):
        return None
    if _holds(value, lambda item: item is ...):
        raise ValueError(f'has a list whose items were cut off at "...": {_short(text)}')
    if _holds(value, lambda item: isinstance(item, str) and re.search("[\a\b\f\v]", item)):
        raise ValueError(f"has a list with single backslashes: {_short(text)}")
    if isinstance(value, dict):
        if "target" not in value:
            raise ValueError(f'has an answer that is an object without "target": {_short(text)}')
        return [value["target"]]
    # the order of a set of texts differs from process to process
    return sorted(value, key=repr) if isinstance(value, set) else list(value)


def chat_in(text: str) -> list[dict] | None:
    """The messages that a prompt's text writes as a list, None if it writes none.

    Raises: ValueError if it looks like messages and cannot be read.
    """
    if not re.fullmatch(CHAT, text.strip(), re.DOTALL):
        return None
    value = value_of(text)
    if value is None:
        raise ValueError(f"has a prompt like a list of messages that is none: {_short(text)}")
    said = isinstance(value, list) and all(isinstance(m, dict) for m in value)
    return value if said and all(m.get("role") in CHAT_ROLES for m in value) else None


def value_of(text: str):
    """The value that a text writes as a list or an object, None if it writes none."""
    text = text.strip()
    if not re.match(rf"[\[({{]|{TOKENS['call']}", text):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(_as_python(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _as_python(text: str) -> str:
    """The same in Python: commas between items, no calls. ValueError for an unknown token."""
    parts, place, depth, ended = [], 0, 0, False
    while place < len(text):
        token = TOKEN.match(text, place)
        # one value, and nothing after it
        if not token or (parts and not depth):
            raise ValueError(f"no token at {place}")
        kind, written = token.lastgroup, token[token.lastgroup]
        depth += (kind == "open") - (kind == "close")
        if ended and kind in ("string", "call", "word", "number", "open"):
            parts.append(",")
        if kind not in ("call", "dtype"):
            parts.append(PYTHON.get(written, written))
        ended, place = kind in ("string", "word", "number", "close", "dtype"), token.end()
    return "".join(parts)


def _is_broken(text: str) -> bool:
    """Does it begin, part its items and end as a list of texts, without a bracket in it?"""
    inner = text[1:-1].strip()
    quote = inner[:1]
    if text[:1] + text[-1:] != "[]" or not quote or quote not in "'\"" or inner[-1] != quote:
        return False
    return not re.search(r"[\[\]]", inner) and bool(re.search(rf"{quote}\s*,\s*{quote}", inner))


def _holds(value, wanted) -> bool:
    """Is one of the items, of the keys or of the items within items wanted?"""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set)):
        return any(_holds(item, wanted) for item in value)
    return wanted(value)


def _has_words(value) -> bool:
    """Does a list hold more than numbers?"""
    return _holds(value, lambda item: item is None or isinstance(item, (str, bool)))


def _short(text: str) -> str:
    return ascii(text[:60])
