"""support/plugins.py: what a user names as FILE.py:NAME."""

import functools
import subprocess
import sys

import pytest

from support.plugins import load_name, open_reward


@pytest.fixture
def write(tmp_path):
    def write(text, name="own.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_name_of_a_file(write):
    path = write("def one(rollout, question):\n    return 1\nTWO = 2\n")
    assert load_name(f"{path}:one", "reward_fn")(None, None) == 1
    assert load_name(f"{path}:TWO", "tools") == 2


def test_a_file_is_run_once_and_finds_its_neighbours_and_the_project(write, capsys):
    write("VALUE = 7\n", "neighbour_of_own.py")
    path = write(
        "from neighbour_of_own import VALUE\nfrom rewards import answer_of\nprint('run')\n"
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = VALUE\n",
        "with_neighbour.py",
    )
    assert load_name(f"{path}:A", "tools")().x == 7
    assert load_name(f"{path}:VALUE", "tools") == 7
    assert capsys.readouterr().out == "run\n"


def test_a_users_file_named_as_one_of_the_project(write):
    path = write("def mine(rollout, question):\n    return 5\n", "rewards.py")
    assert load_name(f"{path}:mine", "reward_fn")(0, 0) == 5
    import rewards

    assert hasattr(rewards, "answer_of")


@pytest.mark.parametrize(
    "place, said",
    [
        ("own.py", "must be FILE.py:NAME, got 'own.py'"),
        ("own:score", "must be FILE.py:NAME"),
        ("own.py:", "must be FILE.py:NAME"),
        ("own.py:a b", "must be FILE.py:NAME"),
        ("missing.py:score", "there is no file missing.py"),
    ],
)
def test_a_place_that_is_none(place, said):
    with pytest.raises(ValueError, match=f"--reward_fn.*{said}"):
        load_name(place, "reward_fn")


@pytest.mark.parametrize(
    "text, said",
    [
        ("def other(r, q): pass\ndef more(r, q): pass\n", r"has no score; it has other, more$"),
        ("X = 1\n", r"has no score$"),
        ("import nothing_like_this\n", r"ModuleNotFoundError: .*nothing_like_this.*own.py, line 1"),
        ("\n\n1 / 0\n", r"cannot be loaded: ZeroDivisionError: .*\(own.py, line 3\)"),
        ("def score(:\n", r"SyntaxError: .*\(own.py, line 1\)"),
        ("score = 3\n", r"is no plain function"),
        ("async def score(r, q): pass\n", r"is no plain function.*not async"),
        ("def score(r, q): yield 1\n", r"is no plain function.*no generator"),
        ("class score:\n    def __init__(self, r, q): pass\n", r"is no plain function.*no class"),
        (
            "class A:\n    async def __call__(self, r, q): pass\nscore = A()\n",
            r"is no plain function.*not async",
        ),
        (
            "import functools\nasync def f(r, q): pass\nscore = functools.partial(f)\n",
            r"is no plain function.*not async",
        ),
        (
            "def score(rollout): pass\n",
            r"must take \(rollout, question\), this one takes \(rollout",
        ),
        ("def score(r, q, third): pass\n", r"must take \(rollout, question\)"),
    ],
)
def test_a_reward_that_cannot_be_used(write, text, said):
    with pytest.raises(ValueError, match=said):
        open_reward(f"{write(text)}:score")


def test_functions_and_objects_that_can(write):
    path = write(
        "import functools\n"
        "class Scorer:\n    def __call__(self, rollout, question): return 2\n"
        "scorer = Scorer()\n"
        "def three(a, b, c): return c\n"
        "part = functools.partial(three, c=4)\n"
        "def more(rollout, question, scale=1.0, **rest): return scale\n"
    )
    found = [open_reward(f"{path}:{name}")(None, None) for name in ("scorer", "part", "more")]
    assert found == [2, 4, 1.0] and open_reward("") is None
    assert isinstance(open_reward(f"{path}:part"), functools.partial)


def test_nothing_of_torch_is_imported():
    code = "import sys, support.plugins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
