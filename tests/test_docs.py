"""README and docs/ say what is there: files, functions, flags, settings, line counts, figures."""

import ast
import dataclasses
import io
import json
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

import config
from extras.bench.__main__ import PARTS

HERE = Path(__file__).resolve().parent.parent
README = HERE / "README.md"
PAGES = [README, HERE / "CONTRIBUTING.md", *sorted((HERE / "docs").glob("*.md"))]
# scripts that give the flags they do not know to others
PASSES_ON = {"extras.plan": ["train.py"], "extras.bench": ["train.py", "eval.py"]}
# flags that the text names and that belong to torchrun, pip, sbatch, chromium
FOREIGN_FLAGS = {
    "--index-url",
    "--nnodes",
    "--nproc_per_node",
    "--max_restarts",
    "--signal",
    "--no-deps",
    "--headless",
    "--hide-scrollbars",
    "--screenshot",
    "--window-size",
}

sys.path.insert(0, str(HERE / "docs"))
picture = __import__("picture")
speed = __import__("speed")
counts = __import__("counts")


def page_id(page: Path) -> str:
    return page.stem


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)


def without_code(text: str) -> str:
    return re.sub(r"^```\w*\n.*?^```", "", text, flags=re.S | re.M)


def commands(text: str) -> list[list[str]]:
    """The words of every command of this project in a page's code."""
    inline = re.findall(r"`((?:python|torchrun|pip) [^`]+)`", without_code(text))
    lines = [line for block in code_blocks(text) for line in block.splitlines()]
    found = []
    for line in lines + inline:
        for part in re.split(r"&&", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words[:1] in (["python"], ["torchrun"]) and runs_something(words):
                found.append(words)
    return found


def runs_something(words: list[str]) -> bool:
    return "-m" in words or any(word.endswith(".py") for word in words)


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """The script or module that a command runs, and its arguments."""
    for place, word in enumerate(words):
        if word == "-m":
            return words[place + 1], words[place + 2 :]
        if word.endswith(".py"):
            return word, words[place + 1 :]
    raise AssertionError(f"{words} runs no script")


@cache
def help_of(script: str) -> str:
    """What `script --help` prints."""
    argv, out = sys.argv, io.StringIO()
    sys.argv = [script, "--help"]
    try:
        with redirect_stdout(out), pytest.raises(SystemExit) as stop:
            if script.endswith(".py"):
                runpy.run_path(str(HERE / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = argv
    assert not stop.value.code, f"{script} --help fails"
    return out.getvalue()


def choices_of(script: str, flag: str) -> list[str]:
    """The values that a flag takes by its help, [] if any."""
    found = re.search(rf"{flag} \{{([^}}]*)\}}", help_of(script))
    return found[1].split(",") if found else []


def has_flag(script: str, flag: str) -> bool:
    texts = [help_of(s) for s in (script, *PASSES_ON.get(script, ()))]
    return any(re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text) for text in texts)


def test_the_pages_hold_what_is_checked():
    """Commands, flags and files are found in them: else the tests below would say nothing."""
    texts = [page.read_text() for page in PAGES]
    assert len(PAGES) >= 13 and sum(len(commands(text)) for text in texts) > 80
    assert sum(len(re.findall(r"\]\([^)\s]+\)", text)) for text in texts) > 150


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_parses(page):
    for words in commands(page.read_text()):
        script, arguments = script_of(words)
        if script == "pytest":
            continue
        file = script if script.endswith(".py") else script.replace(".", "/")
        assert (HERE / file).exists() or (HERE / f"{file}.py").exists(), f"no {script}"
        if script == "extras.bench":
            parts = list(takewhile(lambda word: not word.startswith("-"), arguments))
            assert set(parts) <= PARTS.keys()
        for place, word in enumerate(arguments):
            flag, _, value = word.partition("=")
            if not flag.startswith("--") or flag == "--help":
                continue
            assert has_flag(script, flag), f"{script} has no {flag}: {' '.join(words)}"
            allowed = choices_of(script, flag)
            value = value or arguments[place + 1] if allowed else ""
            assert not allowed or value in allowed, f"{flag} {value} of {' '.join(words)}"


@cache
def all_flags() -> set[str]:
    """The flags of all scripts."""
    scripts = ["train.py", "eval.py", "tools.py", "report.py", "extras.plan", "extras.bench"]
    scripts += ["extras.study", "extras.study.signal", "extras.study.drift", "extras.pilot"]
    scripts += ["extras.gpu_visit"]
    return {flag for s in scripts for flag in re.findall(r"--\w[\w-]*", help_of(s))}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_flag_in_the_text_exists(page):
    named = set(re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", page.read_text()))
    own = {"--tree", "--light", "--write", "--pairs"}
    assert named - all_flags() - FOREIGN_FLAGS - own == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page):
    for name, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        file, _, _ = target.partition("#")
        assert (page.parent / file).exists(), f"{page.name} links to {target}"
        function = re.fullmatch(r"`([\w.]+)`", name)
        if function and file.endswith(".py") and not name.strip("`").endswith(".py"):
            assert function[1] in names_in(page.parent / file), f"no {function[1]} in {file}"


def names_in(file: Path) -> set[str]:
    """Functions, classes and their methods, as Class.method."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        for inner in getattr(node, "body", []) if isinstance(node, ast.ClassDef) else []:
            if isinstance(inner, ast.FunctionDef):
                found.add(f"{node.name}.{inner.name}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_file_in_the_text_exists(page):
    """`name.py` and `folder/` of this project."""
    text = without_code(page.read_text())
    for name in re.findall(r"`((?:[a-z_]+/)*[\w.-]+\.py|(?:[a-z_]+/)+)`", text):
        ours = not name.startswith(("runs/", "data/", "nanochat/", "scripts/", "cleanrl/"))
        if ours and "NAME" not in name:
            assert (HERE / name).exists(), f"{page.name} names {name}"


def test_the_readme_keeps_its_budget():
    lines = README.read_text().splitlines()
    assert len(lines) <= 160
    assert [line for line in lines if len(line) > 100] == []
    first = "\n".join(lines[:40])
    for what in ("docs/picture.svg", "python train.py", "pytest", "torchrun", "GPU yet"):
        assert what in first, f"{what} is not on the first screen"


def test_the_tables_of_reproducibility_count_what_is_there():
    page = (HERE / "docs/reproducibility.md").read_text()
    assert page == counts.with_counts(page, HERE), "write them: python docs/counts.py --write"
    for name in counts.count(HERE, counts.READING_PATH):
        assert f"| {name} |" in page, name


def test_the_files_table_counts_the_lines():
    readme = README.read_text()
    now = counts.with_lines(readme, HERE)
    assert readme == now, "write today's lines into it: python docs/counts.py --write"
    assert [f"`{name}`" for name in counts.READING_PATH if f"`{name}` |" not in readme] == []


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def table_settings(text: str, column: int) -> set[str]:
    """The names in backticks of one column of the tables of a text."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [row[column] for row in rows if len(row) > abs(column)]
    return {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


def test_every_setting_named_exists():
    settings = {f.name for f in dataclasses.fields(config.Config)}
    readme, paper = README.read_text(), (HERE / "docs/paper.md").read_text()
    named = table_settings(section(readme, "The settings that matter"), 0)
    named |= set(re.findall(r"^\d\. `(\w+)`:", readme, re.M))
    named |= table_settings(section(paper, "1. Five deliberate departures from the paper"), 0)
    named |= table_settings(section(paper, "3. Where paper and released code disagree"), -1)
    assert len(named) > 15 and named - settings == set()


def test_defaults_in_the_readme_are_the_defaults():
    """The rows of "The settings that matter"."""
    defaults = {f.name: f.default for f in dataclasses.fields(config.Config)}
    rows = section(README.read_text(), "The settings that matter").splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows if row.startswith("| `")]
    for names, values, *_ in cells:
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(", ")):
            default = defaults[name]
            kind = float if isinstance(default, (int, float)) else str
            kind = str if isinstance(default, bool) else kind
            assert kind(value) == kind(str(default).lower()), name


def test_the_laptop_s_result_names_its_script():
    data = json.loads((HERE / "docs/picture.json").read_text())
    readme = " ".join(README.read_text().split())
    for number in re.findall(r"\d\.\d{3}", picture.summary(data)):
        assert number in readme, f"{number} is not in the README"
    assert "python -m extras.bench laptop --seeds " + " ".join(map(str, data["seeds"])) in readme
    assert "torch " + data["versions"]["torch"] in readme
    assert picture.table(data) in (HERE / "docs/evidence.md").read_text()


@pytest.mark.parametrize("name, colors", [("picture", "LIGHT"), ("picture-dark", "DARK")])
def test_the_picture_is_drawn_from_its_numbers(name, colors):
    data = json.loads((HERE / "docs/picture.json").read_text())
    drawn = picture.draw(data, getattr(picture, colors))
    assert (HERE / f"docs/{name}.svg").read_text() == drawn


def test_the_figures_of_speed_are_those_of_the_bench():
    figures = json.loads((HERE / "docs/speed.json").read_text())
    assert speed.picture(figures) == (HERE / "docs/growth.svg").read_text()
    text = (HERE / "docs/speed.md").read_text()
    assert speed.table(figures) in text and speed.growth(figures) in text


def test_growth_is_drawn_where_its_numbers_are():
    """Ten times as many tokens, ten times as long: from one corner of the panel to the other."""
    sizes = {"1": (100, 0.1), "2": (1000, 1.0)}
    figures = {
        f"scaling: {axis} = {size}, {tokens:,} unique tokens, {what}": {"value": made}
        for axis in speed.LINES
        for size, (tokens, made) in sizes.items()
        for what in speed.PANELS
    }
    top, drawn = speed.TOP, speed.picture(figures)
    for left in (speed.LEFT, speed.LEFT + speed.WIDTH + speed.GAP):
        line = f'points="{left:.1f},{top + speed.HEIGHT:.1f} {left + speed.WIDTH:.1f},{top:.1f}"'
        assert drawn.count(line) == 1 + len(speed.LINES)
    assert speed.table({}).count("not measured") == len(speed.PEERS)


def test_collecting_the_picture_s_numbers(tmp_path):
    """A run of two rows of metrics and a tree of two rollouts."""
    metrics = [
        {"step": 0, "eval_avg@4": 0.25, "eval_avg@4_se": 0.1, "eval_greedy": 0.5},
        {"step": 1, "reward": 1.0, "tokens_sampled": 7},
        {"step": 1, "eval_avg@4": 0.75, "eval_avg@4_se": 0.1, "eval_greedy": 1.0},
    ]
    parent = {"step": 1, "group": 3, "index": 0, "parent": None, "fork_at": 0, "reward": 0.0}
    parent |= {"prompt": "<|im_start|>user\nWhy?<|im_end|>\n", "pieces": ["<think>", " a"]}
    parent |= {"mask": [True, True], "entropy": [0.0, 1.0]}
    parent |= {picture.OMEGA: [1.0, 1.1], picture.SCORE: [0.0, 2.0]}
    branch = parent | {"index": 1, "parent": 0, "fork_at": 1, "reward": 1.1}
    branch |= {"pieces": ["<think>", " b"]}
    config = {"seed": 5, "versions": {}, "eval_questions": 2, "eval_samples": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, rows in (("metrics", metrics), ("rollouts", [parent, branch])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"names seed 6, the runs have \[5\]"):
        picture.collect([tmp_path], 6, 1, 0)
    data = picture.collect([tmp_path], 5, 1, 0)
    numbers = {"step": [0, 1], "sampled": [0.25, 0.75], "greedy": [0.5, 1.0]}
    assert data["curves"] == [numbers | {"tokens_sampled": 7, "tokens_trained": 0}]
    point = data["tree"]["branches"][0]
    assert (point["token"], point["anew"], point["omega"], point["reward"]) == (
        " a",
        " b",
        1.1,
        1.1,
    )
    assert data["tree"]["question"] == "Why?"
    assert "before 0.250 (0.250 to 0.250); after 0.750" in picture.summary(data)
    assert picture.draw(data, picture.DARK).startswith("<svg")


def test_words_that_do_not_hold_are_gone():
    wrong = ("a handful of files", "only sizes are smaller", "Defaults are the paper's")
    for page in PAGES:
        text = " ".join(page.read_text().split())
        assert [words for words in wrong if words in text] == [], page.name


def test_support_imports_nothing_above_it():
    above = {"appo", "methods", "train", "eval"}
    for path in Path(config.__file__).parent.joinpath("support").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not above & {name.split(".")[0] for name in names}, path


def test_the_map_of_support_names_every_file():
    """Once each, and nothing else."""
    lines = (HERE / "support" / "__init__.py").read_text().splitlines()
    named = [name for line in lines[2:] for name in line[14:].split()]
    assert sorted(named) == sorted(f.stem for f in (HERE / "support").glob("[a-z]*.py"))
    assert len(named) == len(set(named))


def test_every_section_with_figures_names_what_prints_them():
    """A part of the bench, or the run itself."""
    from extras.bench.__main__ import SPEED

    sections = (HERE / "docs" / "speed.md").read_text().split("\n## ")[1:]
    assert len(sections) > 8
    for section in sections:
        named = re.findall(r"(?:extras\.bench |\| `)(\w+)`?", section)
        assert set(named) & set(SPEED) or "python train.py" in section, section.splitlines()[0]
