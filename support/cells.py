"""Lists that a cell of a table holds as text, as JSON, Python and numpy write them.

    1. listed        the list in an answer's text; "[1, 2]" is an interval and stays text
    2. chat_in       the messages in a prompt's text
    3. value_of      what either reads: the value that a text writes

Python reads ['Paris' 'City of Light'], as numpy prints it, as one string: value_of parts them.
"""

import ast
import json
import re
import string

from support.messages import ROLES

STRING = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
# of a text that writes a list: each token's name and how it looks
TOKENS = {
    "string": rf"[uU]?(?:{STRING})",
    "dtype": rf",?\s*(?:dtype=(?:{STRING}|[\w.]+)|shape=\([\d, ]*\))",
    "call": r"(?:(?:np|numpy)\.)?"
    r"(?:array|str_|bool_|u?int\d*|float\d*|set|frozenset|list|tuple)\s*(?=\()",
    "word": r"(?:null|None|NaN|nan|true|True|false|False|\.\.\.)(?![\w.])",
    "number": r"[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?(?!\w)",
    "open": r"[\[({]",
    "close": r"[\])}]",
    "between": r"[,:]",
}
TOKEN = re.compile(r"\s*(?:" + "|".join(f"(?P<{k}>{v})" for k, v in TOKENS.items()) + r")\s*")
# words that Python spells otherwise; not a number is no answer
PYTHON = {"null": "None", "NaN": "None", "nan": "None", "true": "True", "false": "False"}
# names of LaTeX whose first letter after a single backslash makes a tab, a line feed or a return
NAMES = "times text textbf textit textrm tan tau theta tfrac to top triangle tilde "
NAMES += "nabla ne neg neq not notin nu rangle rho right rightarrow rfloor rceil rvert"
_LETTERS = {"t": "\t", "n": "\n", "r": "\r"}
_SPOILED = "|".join(_LETTERS[name[0]] + name[1:] for name in NAMES.split())
EATEN = rf"[\a\b\f\v]|(?:{_SPOILED})(?![A-Za-z])"
# how a list of texts begins that Python's and numpy's grammar then do not read
BEGUN = rf"(?:array\(\s*)?(?:\[\s*(?:{STRING})(?:\s*,|\s+['\"])|\{{\s*(?:{STRING})\s*:)"
BYTES = rf"\[\s*b(?:{STRING})"
# a call of Python around texts: deque(['a']), OrderedDict([('a', 1)]), [Decimal('1')]
CALLED = rf"(?:\[\s*)?[A-Za-z_][\w.]*\((?:\s*[\[({{])+\s*[bu]?(?:{STRING})"
CALLED += rf"|\[\s*(?:\w+\.)*[A-Z]\w*\(\s*(?:{STRING})"
# white space and the byte-order mark
BLANKS = string.whitespace + "\ufeff"
# a chat or a message
CHAT = (
    r"(?:array\(\s*)?(?:[\[(]\s*)?\{\s*['\"](?:(?:role|content|from|value|messages|conversations)"
    r"['\"]\s*:|prompt['\"]\s*:\s*[\[({]).*[\]})]"
)


def listed(text: str) -> list | None:
    """The items of the list, tuple or set that an answer's text writes; of {"target": x} it is [x].

    None if it writes none, or only numbers, which may be an interval, a point or a matrix.
    Raises: ValueError for an object without "target", a list that is cut off, quotation marks that
            do not pair, bytes, calls, or LaTeX whose backslashes are not doubled: "\\f" of "\\frac"
            is a control character.
    """
    text = text.strip(BLANKS)
    value = value_of(text)
    if value is None and _is_broken(text):
        reason = "quotation marks do not pair, or that is cut off or holds bytes or calls"
        raise ValueError(f"has a list whose {reason}: {_short(text)}")
    if not isinstance(value, (list, tuple, set, dict)) or not _has_words(value):
        return None
    if _holds(value, lambda item: item is ...):
        raise ValueError(f'has a list whose items were cut off at "...": {_short(text)}')
    if _holds(value, lambda item: isinstance(item, str) and re.search(EATEN, item)):
        raise ValueError(f"has a list with single backslashes: {_short(text)}")
    if _lacks_target(value):
        raise ValueError(f'has an answer that is an object without "target": {_short(text)}')
    if isinstance(value, dict):
        return [value["target"]]
    # the order of a set of texts differs from process to process
    return sorted(value, key=repr) if isinstance(value, set) else list(value)


def chat_in(text: str) -> list[dict] | None:
    """The messages that a prompt's text writes, as they are; None if it writes none.

    A chat is a list of messages, one message, or {"messages": [...]}; ShareGPT's names are known.
    Raises: ValueError if it looks like messages and cannot be read.
    """
    text = _written_once(text)
    chat = messages_in(value_of(text))
    if not chat and re.fullmatch(CHAT, text, re.DOTALL):
        raise ValueError(f"has a prompt like a list of messages that is none: {_short(text)}")
    roles = [m.get("role", m.get("from")) for m in chat]
    # a question may itself be in JSON
    return chat if any(isinstance(role, str) and role in ROLES for role in roles) else None


def messages_in(value) -> list[dict]:
    """The objects of a list, or of {"messages": [...]}; of another object a list. Else none."""
    if isinstance(value, dict):
        places = ("messages", "conversations", "prompt")
        value = next((value[place] for place in places if place in value), [value])
    objects = isinstance(value, (list, tuple)) and all(isinstance(m, dict) for m in value)
    return list(value) if objects else []


def value_of(text: str):
    """The value that a text writes as a list or an object, None if it writes none."""
    text = _written_once(text)
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


def _written_once(text: str) -> str:
    """The list or object that a string in JSON or Python holds; other text as it is."""
    text = text.strip(BLANKS)
    if not (re.match(r"['\"]\s*[\[({]", text) and re.fullmatch(STRING, text)):
        return text
    try:
        return ast.literal_eval(text).strip()
    except (ValueError, SyntaxError, MemoryError):
        return text


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
    """Does a text that is no list begin like a list of texts, or end like one too?"""
    if re.match(f"{BEGUN}|{BYTES}|{CALLED}", text):
        return True
    inner = text[1:-1].strip()
    quote = inner[:1]
    if text[:1] + text[-1:] != "[]" or not quote or quote not in "'\"" or inner[-1] != quote:
        return False
    # parts its items, or has an apostrophe within a word
    parted = rf"{quote}\s*,\s*{quote}|\w{quote}\w"
    return not re.search(r"[\[\]]", inner) and bool(re.search(parted, inner))


def _lacks_target(value) -> bool:
    """Is it, or one of its items, an object without "target"?"""
    if isinstance(value, dict):
        return "target" not in value
    return isinstance(value, (list, tuple)) and any(map(_lacks_target, value))


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
