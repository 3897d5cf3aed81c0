"""support/words.py: words, numbers and other scripts."""

import json
import random
import time
from pathlib import Path

import pytest
from word_cases import EQUAL, UNEQUAL

from support.words import exact_match, normalize_answer, token_f1, undress, words_of

HERE = Path(__file__).resolve().parent
PAIRS = json.loads((HERE / "word_pairs.json").read_text())
KINDS = [
    (kind, lines, equal)
    for table, equal in ((EQUAL, True), (UNEQUAL, False))
    for kind, lines in table.items()
]


def test_normalize_exact_f1():
    assert normalize_answer(" The  Cat's, a  hat! ") == "cats hat"
    assert (
        exact_match("The Beatles", ["beatles"])
        and not exact_match("Beatles band", ["beatles"])
        and exact_match("+", ["+"])
        and not exact_match("+", ["-"])
        and not exact_match("", ["x"])
    )
    assert token_f1("a b c", ["b c d"]) == pytest.approx(0.8) and token_f1(
        "b b", ["b"]
    ) == pytest.approx(2 / 3)
    assert (
        token_f1("", ["x"]) == 0
        and token_f1("x", []) == 0
        and token_f1("no", ["no"]) == 1
        and token_f1("no way", ["no"]) == 0
    )


@pytest.mark.parametrize(
    "pred, gold, f1",
    [
        ("红楼梦", "红楼梦", 1),
        ("《红楼梦》。", "红楼梦", 1),
        ("北京 大学", "北京大学", 1),
        ("北京大学", "北京", 2 / 3),
        ("答案是北京", "北京", 4 / 7),
        ("上海", "北京", 0),
        ("１６１．２７元", "161.27元", 1),
        ("161.27 元", "161.27元", 1),
        ("2022年9月1日", "2022 年 9 月 1 日", 1),
        ("2022年9月1日", "2022年9月2日", 5 / 6),
        ("東京タワー", "東京", 4 / 7),
        ("占12%", "占12", 1 / 2),
        ("𠮷野家", "𠮷野", 4 / 5),
        ("中国（北京）", "中国(北京)", 1),
    ],
)
def test_chinese_and_japanese_words_are_characters(pred, gold, f1):
    assert token_f1(pred, [gold]) == pytest.approx(f1) and token_f1(gold, [pred]) == pytest.approx(
        f1
    )
    assert exact_match(pred, [gold]) == (f1 == 1)


@pytest.mark.parametrize(
    "pred, gold, exact, f1",
    [
        ("12%", "12", False, 0),
        ("12 %", "12%", True, 1),
        ("-5", "5", False, 0),
        ("1.5", "15", False, 0),
        ("1,000", "1000", True, 1),
        ("Yes.", "yes", True, 1),
        ("yes", "yes it is", False, 0),
        ("The answer", "answer", True, 1),
        ("B.C.", "bc", True, 1),
        ("Paris, France", "France, Paris", False, 1),
        ("", "", True, 1),
        ("Beatles band", "the beatles", False, 2 / 3),
    ],
)
def test_words(pred, gold, exact, f1):
    assert exact_match(pred, [gold]) == exact and token_f1(pred, [gold]) == f1
    assert exact_match(pred, ["?!", gold]) == exact and exact_match(pred, []) is False


# Each line: predictions that are right for the first, by exact match and F1.
SAME_WORDS = r"""
Paris | \text{Paris} | \mathrm{Paris} | \textbf{\text{Paris}} | $\text{Paris}$ | The Paris.
New York | \text{New York} | \text{New\ York} | New\,York
50% | 50\% | 50 % | $50\%$ | 50.0%
AT&T | AT\&T
a_b #1 | a\_b \#1
1981–1984 | 1981-1984 | 1981—1984
Argentina's “own” | Argentina’s "own"
-5 | −5 | –5 | -5.0 | $-5$
1,000 | 1000 | 1000.0 | $1,000 | +1000
0.5 | .5 | 0.50
007 | 007.
1/2 | 1/2
A | A | a | \text{A} | A.
The The | the the
?! | ?!
$ | $
"""


# Each line: a gold and predictions that are wrong, with F1 0.
OTHER_WORDS = r"""
5 | -5 | −5 | 0.5 | five | 5% | 05
7 | 007
0.5 | 50% | 1/2 | 05 | 5
12 | 1/2 | 1.2 | 12%
50% | -50% | 0.5 | 50
1/2 | 2/4 | 0.5
A | The | An | b |
?! | ? |
$ | $$ |
Paris | \text{London} | \text{} |
"""


@pytest.mark.parametrize(
    "line, score",
    [
        (line, score)
        for table, score in ((SAME_WORDS, 1), (OTHER_WORDS, 0))
        for line in table.strip().split("\n")
    ],
)
def test_words_in_other_dress(line, score):
    gold, *preds = line.split(" |")
    for pred in map(str.strip, preds):
        assert (exact_match(pred, [gold]), token_f1(pred, [gold])) == (score, score), (gold, pred)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: ascii(pair["pred"]))
def test_graded_pairs(pair):
    """Both ways round; null stands for a value that is not checked."""
    for a, b in ((pair["pred"], pair["gold"]), (pair["gold"], pair["pred"])):
        assert exact_match(a, [b]) == pair["exact_match"]
        assert pair["token_f1"] in (None, token_f1(a, [b]))


@pytest.mark.parametrize("kind, lines, equal", KINDS, ids=[kind for kind, _, _ in KINDS])
def test_kinds_of_pairs(kind, lines, equal):
    """Both ways round; F1 is 1 exactly where exact_match is true."""
    for line in lines.strip().split("\n"):
        first, *others = line.split(" | ")
        assert others, line
        for other in others:
            for a, b in ((first, other), (other, first)):
                assert exact_match(a, [b]) == equal, (a, b, words_of(undress(a)))
                assert (token_f1(a, [b]) == 1) == equal, (a, b)


def test_the_page_says_how_many_pairs_are_checked():
    page = (HERE.parent / "docs" / "evaluation.md").read_text()
    pairs = sum(len(x.split(" | ")) - 1 for _, t, _ in KINDS for x in t.strip().split("\n"))
    counted = f"{len(PAIRS)} graded pairs and {pairs} pairs of {len(KINDS)} kinds"
    assert counted in page, counted


def test_the_words_of_plain_text_are_those_of_squad():
    """Where nothing stands that KEPT keeps; a fixed seed."""
    draw, letters = random.Random(0), "abthe'..,,;? \"()&;"
    texts = ["".join(draw.choices(letters, k=draw.randrange(14))) for _ in range(3000)]
    for text in texts:
        assert words_of(text) == normalize_answer(text).split(), text


@pytest.mark.slow
def test_words_of_long_texts_take_no_time():
    started = time.process_time()
    for text in (
        "$" * 10**5 + "x",
        " " * 10**5 + "x",
        "1" + " " * 10**5 + "x",
        "\\text{" * 10**4,
        "1,000" * 10**4,
        "\\" * 10**5,
        "5" + " " * 2 * 10**4 + "x",
        "-" * 2 * 10**4 + "x",
        "5-" * 2 * 10**4 + "x",
        "< " * 2 * 10**4 + "x",
        "1,000," * 5000 + "x",
        "¹½₁" * 5000 + "x",
        "+" * 2 * 10**4 + "x",
        "(" * 2 * 10**4 + "x",
        "x - " * 5000,
        "-=" * 10**4,
        "=" * 2 * 10**4,
        "5'" * 10**4,
        "[0," * 10**4,
        "<a" * 10**4,
        "²3" * 5000,
    ):
        assert not exact_match(text, ["7"]) and token_f1(text, ["7"]) == 0
    assert time.process_time() - started < 5
