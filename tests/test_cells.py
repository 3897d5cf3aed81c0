"""support/cells.py: lists and chats that a cell holds as text."""

import contextlib
import json
import time

import pytest

from support.cells import chat_in, listed
from support.messages import message_of
from support.questions import guess_task

LISTS = [
    ("['Paris' 'City of Light']", ["Paris", "City of Light"]),
    ("['a'\n 'b']", ["a", "b"]),
    ("[\"it's\" 'b'\n 'c \"d\"']", ["it's", "b", 'c "d"']),
    ("array(['Paris', 'Lutetia'], dtype=object)", ["Paris", "Lutetia"]),
    ("array(['a', 'b'],\n      dtype='<U5')", ["a", "b"]),
    ("[np.str_('a'), np.str_('b')]", ["a", "b"]),
    ("['a' 5 None nan]", ["a", 5, None, None]),
    ("[array(['a', 'b'], dtype=object) list(['c'])]", [["a", "b"], ["c"]]),
    ('["Paris", null]', ["Paris", None]),
    ('["12", 12, 1.5, true]', ["12", 12, 1.5, True]),
    ('["a\\/b", "\\u00e9", "\\ud83d\\ude00"]', ["a/b", "é", "\U0001f600"]),
    ("[true, false]", [True, False]),
    ('{"target": ["Paris", "Lutetia"]}', [["Paris", "Lutetia"]]),
    ("{'target': array(['Paris'], dtype=object)}", [["Paris"]]),
    ('{"target": "Paris", "style": "rule"}', ["Paris"]),
    ("('Paris', 'Lutetia')", ["Paris", "Lutetia"]),
    ("('Paris',)", ["Paris"]),
    ("{'b', 'a'}", ["a", "b"]),
    ("frozenset({'b', 'a'})", ["a", "b"]),
    ("['a', 2, None, True]", ["a", 2, None, True]),
    ("['a\\'b', \"c\\\\d\"]", ["a'b", "c\\d"]),
    ("array(['a', 'b', 'c'], shape=(3,), dtype=object)", ["a", "b", "c"]),
    ('"[\\"Paris\\", \\"b\\"]"', ["Paris", "b"]),
    ("'[\"Paris\"]'", ["Paris"]),
    ("['New\\nYork', 'a\\tb', 'in\\r\\nto']", ["New\nYork", "a\tb", "in\r\nto"]),
    (r"['\\times', '\\nu']", [r"\times", r"\nu"]),
    ('[{"target": "a"}, "b"]', [{"target": "a"}, "b"]),
    ("[u'Paris', u'x']", ["Paris", "x"]),
    ("[u'it\\'s' U\"x\"]", ["it's", "x"]),
    ("{u'target': [u'x']}", [["x"]]),
    ('\ufeff["a", "b"]', ["a", "b"]),
]


@pytest.mark.parametrize("text, items", LISTS)
def test_lists_as_json_python_and_numpy_write_them(text, items):
    assert listed(text) == items


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[1, 2]",
            "[1 2]",
            "(1, 2)",
            "{1, 2}",
            "[[1, 2], [3, 4]]",
            "[1, 2, ..., 10]",
            "[]",
            "()",
            "{}",
        ),
        *("[-2,\\infty)", "(0.5, 1]", "[007]", "{1: 2}", "[-1, +2.5e3]"),
        *("['tis the season", "['tis the season, isn't it]", "['tis, 'twas']", '["', "['", "['a'"),
        *("['a'] + ['b']", "['a'] ['b']", "['a'], ['b']", "('Paris')", "'Paris'", "[Paris]"),
        *(
            '"[1, 2]"',
            '"[sic] Paris"',
            "[open('x')]",
            "[__import__('os')]",
            "['a' * 9]",
            "(a) 'b'",
            "",
            "[" * 9000,
        ),
        *("{'a' for b in 'c'}", "[lambda: 'x']", "array('x')", "np.str_('a')", "set()"),
        *("print('x')", "f([1, 2])", "P((0, 1))", "max({1, 2})", "u'Paris'", "Bob (['b)"),
    ],
)
def test_what_stays_text(text):
    assert listed(text) is None


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"answer": "Paris"}', 'without "target"'),
        ("{'Paris': 1}", 'without "target"'),
        ("['a' 'b' ... 'y' 'z']", "cut off"),
        ("['a', ..., 'z']", "cut off"),
        ("['rock 'n' roll', 'b']", "quotation marks do not pair"),
        ('["a "quoted" word", "b"]', "quotation marks do not pair"),
        (r'["\frac{1}{2}", "b"]', "single backslashes"),
        (r"['\beta', 'b']", "single backslashes"),
        (r"['\times']", "single backslashes"),
        (r"['2 \nu', 'b']", "single backslashes"),
        (r'["\rho_0"]', "single backslashes"),
        (r'["\theta"]', "single backslashes"),
        ('["Paris", {"alias": "x"}]', 'without "target"'),
        ("[{'text': 'Paris'}]", 'without "target"'),
        ("array(['a', ..., 'z'], shape=(2000,), dtype=object)", "cut off"),
        ("['Paris', 'x'", "cut off"),
        ("['Paris' 'x", "cut off"),
        ('{"target": "Par', "cut off"),
        ("array(['Paris', 'x'", "cut off"),
        ("['O'Brien']", "quotation marks do not pair"),
        ("[b'Paris']", "holds bytes"),
        ("deque(['a', 'b'])", "or calls"),
        ("deque(['a'], maxlen=5)", "or calls"),
        ("OrderedDict([('target', 'a')])", "or calls"),
        ("[OrderedDict([('target', 'a')])]", "or calls"),
        ("collections.Counter({'a': 1})", "or calls"),
        ("dict_keys(['a'])", "or calls"),
        ("[Decimal('1.5'), Decimal('2')]", "or calls"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        listed(text)


def test_numpy_s_own_text():
    numpy = pytest.importorskip("numpy")
    names = ["Paris", "it's", 'a "b"', "New\nYork", "x" * 90, "café", "back\\slash", "[c]"]
    for array in (numpy.array(names, dtype=object), numpy.array(names)):
        assert listed(str(array)) == listed(repr(array)) == names
    assert listed(str(list(numpy.array(names)))) == names
    assert listed(str({"target": numpy.array(names, dtype=object)})) == [names]
    with pytest.raises(ValueError, match="cut off"):
        listed(str(numpy.array(names * 200, dtype=object)))


def test_a_chat_in_a_prompt():
    chat = [{"role": "system", "content": "it's"}, {"role": "user", "content": 'a "b"\n[c] {d}'}]
    for text in (json.dumps(chat), json.dumps(chat, indent=1), str(chat)):
        assert chat_in(text) == chat
        assert chat_in(json.dumps(text)) == chat
    for row in ({"messages": chat}, {"conversations": chat}):
        assert chat_in(json.dumps(row)) == chat_in(str(row)) == chat
    for text in ("Who?", "[{", '[{"role": "user"}] is what?', '[{"name": "x"}]', ""):
        assert chat_in(text) is None
    with pytest.raises(ValueError, match="a prompt like a list of messages"):
        chat_in("[{'role': 'user', 'content': 'it's'}]")


@pytest.mark.parametrize(
    "text",
    [
        '[{"from": "human", "value": "q"}]',
        '[{"role": "human", "content": "q"}]',
        '{"role": "user", "content": "q"}',
        '{"conversations": [{"from": "human", "value": "q"}]}',
        '{"prompt": [{"role": "user", "content": "q"}]}',
        "({'role': 'user', 'content': 'q'},)",
        "[{'name': None, 'role': 'user', 'content': 'q'}]",
        "[{'from': 'human', 'value': 'q'}]",
    ],
)
def test_a_chat_in_the_names_of_sharegpt_or_of_one_message(text):
    chat = chat_in(text)
    assert chat == chat_in(json.dumps(text)) == chat_in("\ufeff" + text)
    assert [message_of(m) for m in chat] == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize("text", ['{"messages": []}', '{"messages": 5}', '{"prompt": [5]}'])
def test_what_looks_like_a_chat_is_refused(text):
    with pytest.raises(ValueError, match="like a list of messages"):
        chat_in(text)


def test_a_chat_keeps_what_its_messages_hold():
    """An unknown role too: whoever reads them refuses it by name."""
    chat = [{"role": "boss", "content": "q"}, {"role": "user", "content": "q", "weight": 0}]
    assert chat_in(json.dumps(chat)) == chat
    assert chat_in(json.dumps(chat[:1])) is None


@pytest.mark.parametrize("part", ["1", " ", "'a' ", "['a',", "\\", "'", "f([", "\ufeff", ", "])
def test_long_texts_take_no_time(part):
    started = time.process_time()
    for before in ("[", "['a'", "{'role': ", "f(", "'", ""):
        for read in (listed, chat_in, lambda text: guess_task([text])):
            with contextlib.suppress(ValueError):
                read(before + part * (100_000 // len(part)) + "x")
    assert time.process_time() - started < 3
