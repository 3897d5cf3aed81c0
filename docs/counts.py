"""Count how much there is to read: the table in docs/reproducibility.md.

    python docs/counts.py                          this repository
    python docs/counts.py --write                  write them into README.md and that table
    python docs/counts.py FOLDER FILE [FILE ...]   another one; FILEs: what tells its method

Standard library only. A setting is a class field whose default is a call with a help text.
"""

import argparse
import ast
import re
from collections import Counter
from pathlib import Path

READING_PATH = [
    "appo.py",
    "branching.py",
    "advantage.py",
    "sampling.py",
    "rollout.py",
    "kv_cache.py",
    "policy.py",
]
# a line longer than this needs scrolling beside a diff
COLUMNS = 100
PARAMETERS = 6


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    """All functions and methods."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> int:
    """How many, self and cls apart."""
    a = function.args
    return len([x for x in a.posonlyargs + a.args + a.kwonlyargs if x.arg not in ("self", "cls")])


def settings(tree: ast.AST) -> int:
    """Class fields whose default is a call that holds a text."""

    def has_text(call: ast.Call) -> bool:
        """Does it hold a text of several words?"""
        texts = [x.value for x in ast.walk(call) if isinstance(x, ast.Constant)]
        return any(isinstance(x, str) and " " in x for x in texts)

    fields = [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    return sum(isinstance(f.value, ast.Call) and has_text(f.value) for f in fields)


def percentile(numbers: list[int], share: float) -> int:
    """The number that this share of them do not exceed; 0 of none."""
    return sorted(numbers)[min(len(numbers) - 1, int(share * len(numbers)))] if numbers else 0


def count(folder: Path, path: list[str]) -> dict[str, str]:
    """The rows of the table, for the files of path within folder."""
    texts = {name: (folder / name).read_text() for name in path}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lines = [line for text in texts.values() for line in text.splitlines()]
    every = [f for tree in trees.values() for f in functions(tree)]
    sizes = [f.end_lineno - f.lineno + 1 for f in every]
    readme = next(folder.glob("README*"), None)
    rows = {}
    if readme:
        text = readme.read_text()
        rows["README, lines"] = f"{len(text.splitlines()):,}"
        rows["README, bytes"] = f"{len(text.encode()):,}"
    rows["to read to know the method, lines"] = f"{len(lines):,}"
    served = sum(len(file.read_text().splitlines()) for file in supporting(folder, trees.values()))
    if served:
        rows["in files of support/ that these import, lines"] = f"{served:,}"
    rows["of these over 100 columns"] = f"{sum(len(x) > COLUMNS for x in lines) / len(lines):.0%}"
    if "appo.py" in trees:
        begins = [f.lineno for f in functions(trees["appo.py"]) if f.name == "step"]
        rows["`step` begins at line"] = f"{begins[0]} of {len(texts['appo.py'].splitlines()):,}"
    rows["functions, median / 90% of lines"] = (
        f"{percentile(sizes, 0.5)} / {percentile(sizes, 0.9)}"
    )
    many = sum(parameters(f) > PARAMETERS for f in every)
    rows[f"functions of more than {PARAMETERS} parameters"] = f"{many} of {len(every)}"
    of_training = places(folder)["config.py"]
    if of_training:
        rows["settings of training, places"] = f"{of_training} in 1"
    rows["Python files, tests apart"] = str(len(python_files(folder)))
    return rows


def supporting(folder: Path, trees) -> list[Path]:
    """The files of support/ that these import."""
    imports = [x for tree in trees for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)]
    names = {x.module.removeprefix("support.") for x in imports if x.module.startswith("support.")}
    names |= {name.name for x in imports if x.module == "support" for name in x.names}
    return [folder / "support" / f"{name}.py" for name in sorted(names)]


def python_files(folder: Path) -> list[Path]:
    """All Python files but tests."""
    files = sorted(folder.rglob("*.py"))
    return [file for file in files if not {"tests", ".git"} & set(file.relative_to(folder).parts)]


def places(folder: Path) -> Counter:
    """Settings of this repository by file."""
    found = Counter()
    for file in python_files(folder):
        found[str(file.relative_to(folder))] = settings(ast.parse(file.read_text()))
    return +found


def with_lines(readme: str, folder: Path) -> str:
    """The README with today's number of lines in its table of files."""

    def row(found: re.Match) -> str:
        """A row of the table."""
        return f"| {len((folder / found[1]).read_text().splitlines())} | `{found[1]}` |"

    return re.sub(r"^\| \d+ \| `([\w/]+\.py)` \|", row, readme, flags=re.M)


def with_counts(page: str, folder: Path) -> str:
    """docs/reproducibility.md with today's numbers in the third column of its two tables."""
    rows = count(folder, READING_PATH)

    def row(found: re.Match) -> str:
        files = re.findall(r"`([\w/]+\.py)`", found[1]) if found[2].strip()[:1].isdigit() else []
        sizes = [len((folder / name).read_text().splitlines()) for name in files]
        now = rows.get(found[1].strip(), ", ".join(map(str, sizes)))
        return f"|{found[1]}|{found[2]}| {now} |" if now else found[0]

    return re.sub(r"^\|([^|\n]+)\|([^|\n]+)\|([^|\n]+)\|", row, page, flags=re.M)


def main() -> None:
    """Print the counts, or write them into README.md and docs/reproducibility.md."""
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=here, help="a repository")
    parser.add_argument("files", nargs="*", default=READING_PATH, help="what tells its method")
    parser.add_argument("--write", action="store_true", help="write them into the pages")
    args = parser.parse_args()
    if args.write:
        for name, change in (("README.md", with_lines), ("docs/reproducibility.md", with_counts)):
            (here / name).write_text(change((here / name).read_text(), here))
        return
    for name, value in count(args.folder, args.files).items():
        print(f"{name:42s} {value}")
    for name, value in places(args.folder).items():
        print(f"{'settings in ' + name:42s} {value}")


if __name__ == "__main__":
    main()
