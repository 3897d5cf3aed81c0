"""report.py: the data of the page, that nothing in it can break out, and the page in a browser."""

import html
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import lines
from report_parts import HALF, HOSTILE, branch, initial, made_tree, step_row, write_run

import report

CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")


def data_of(page: str) -> dict:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def two_groups(tmp_path) -> list[Path]:
    """Two seeds and another run, each with two trees."""
    folders = []
    for name, seed, rate, reward in (("a", 1, 0.1, 0.25), ("b", 2, 0.1, 0.75), ("c", 1, 0.2, 1.0)):
        metrics = [{"step": 0, "eval_avg@2": 0.1, "eval_greedy": 0.2}]
        metrics += [
            step_row(k, reward * k / 4, entropy=0.5, seconds=k, tokens_sampled=10 * k * k)
            for k in range(1, 5)
        ]
        metrics[3]["alarms"] = [f"alarm of {name} {HOSTILE}"]
        rollouts = made_tree(1, 0) + made_tree(4, 2)
        config = {"seed": seed, "lr": rate, "steps": 4, "out": f"runs/{name}"}
        folders.append(write_run(tmp_path / name, metrics, rollouts, config))
    return folders


def test_the_data_of_the_page(tmp_path):
    folders = two_groups(tmp_path)
    report.main([*map(str, folders), "--out", str(tmp_path / "page.html")])
    data = data_of((tmp_path / "page.html").read_text())
    first, second = data["groups"]
    assert (first["runs"], first["seeds"], second["runs"]) == (["a", "b"], [1, 2], ["c"])
    assert first["curves"]["reward"]["mean"] == [None, 0.125, 0.25, 0.375, 0.5]
    assert first["curves"]["reward"]["low"][1:] == [0.0625, 0.125, 0.1875, 0.25]
    assert first["curves"]["reward"]["high"][1:] == [0.1875, 0.375, 0.5625, 0.75]
    assert first["differs"] == {"lr": 0.1} and second["differs"] == {"lr": 0.2}
    assert first["axis"]["tokens"] == [0, 10, 50, 140, 300]
    assert [run["name"] for run in data["runs"]] == ["a", "b", "c"]
    run = data["runs"][0]
    assert run["alarms"] == [{"first": 3, "last": 3, "text": f"alarm of a {HOSTILE}"}]
    assert run["classes"]["content"] == {"branches": 4, "same": 2, "changed": 0}
    assert run["words"] == [["old", 4, False], ["So", 2, True]]
    assert [(tree["step"], tree["group"]) for tree in run["trees"]] == [(1, 0), (4, 2)]
    assert [(p["before"], p["after"]) for p in run["points"][:2]] == [
        (" So", " Well"), (" old", " old")
    ]  # fmt: skip
    assert data["opening"] == "reward" and "so" in data["fillers"]


def test_folders_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / x / "laptop", [step_row(1, 0.5)]) for x in "ab"]
    data = report.collect([report.read_run(folder) for folder in folders])
    assert [run["name"] for run in data["runs"]] == [str(folder) for folder in folders]


def test_no_text_of_a_run_ends_its_script(tmp_path):
    tree = made_tree(text=HOSTILE + HALF)
    folder = write_run(tmp_path / "a", [step_row(1, 0.5)], tree, {HOSTILE: HALF})
    report.write_report([folder])
    page = (folder / "report.html").read_text()
    assert page.isascii(), "any encoding reads it"
    assert HOSTILE + HALF in data_of(page)["runs"][0]["texts"]
    empty = report.page({})
    for tag in ("<script", "</script", "<!--"):
        assert page.count(tag) == empty.count(tag), tag
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page and "<link" not in page and "src=" not in page


def test_markers_of_the_template_in_a_run_are_only_text(tmp_path):
    config = {"seed": 1, "note": "/*DATA*/ /*SCRIPT*/"}
    folder = write_run(tmp_path / "a", [step_row(1, 0.5)], config=config)
    report.write_report([folder])
    assert data_of((folder / "report.html").read_text())["runs"][0]["config"] == config


def long_run(folder, steps=400, length=300):
    """A run with eight rollouts a step and numbers that no rounding shortens."""
    draw = random.Random(0)
    rollouts = []
    for step in range(1, steps + 1):
        for index in range(4):
            pieces = [f"word{draw.randrange(30000)}" for _ in range(length)]
            row = initial(index, pieces, draw.random(), step)
            for name in ("entropy", "future_value", "branching_score", "advantage"):
                row[name] = [draw.random() * 3 for _ in pieces]
            rollouts += [row, branch(4 + index, row, length // 2, pieces[length // 2 :], 0.5)]
    return write_run(folder, [step_row(k, draw.random()) for k in range(1, steps + 1)], rollouts)


@pytest.mark.slow
def test_a_long_run_makes_a_small_page(tmp_path):
    folder = long_run(tmp_path / "a")
    assert (folder / "rollouts.jsonl").stat().st_size > 30e6
    report.write_report([folder])
    assert 0.5e6 < (folder / "report.html").stat().st_size < 3e6
    counts = data_of((folder / "report.html").read_text())["runs"][0]["counts"]
    assert counts["logged"] == counts["read"] == 400


@pytest.mark.parametrize("keep", [(), ("config.json",), ("rollouts.jsonl",)])
def test_a_run_without_some_files(tmp_path, keep):
    folder = two_groups(tmp_path)[0]
    for name in {"config.json", "rollouts.jsonl"} - set(keep):
        (folder / name).unlink()
    run = data_of(report.page(report.collect([report.read_run(folder)])))["runs"][0]
    assert bool(run["trees"]) == ("rollouts.jsonl" in keep)
    assert bool(run["config"]) == ("config.json" in keep)


def test_a_run_that_is_still_going(tmp_path):
    folder = two_groups(tmp_path)[0]
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        file = folder / name
        file.write_text(file.read_text()[:-30])
    data = report.collect([report.read_run(folder)])
    assert data["groups"][0]["axis"]["step"] == [0, 1, 2, 3]
    assert len(data["runs"][0]["trees"][-1]["rows"]) == 4
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (folder / name).write_text("")
    assert report.collect([report.read_run(folder)])["headline"] == "Nothing is logged yet."


def test_errors_of_the_command_line(tmp_path):
    for folder, words in ((tmp_path / "no", "not a folder"), (tmp_path, "holds no metrics.jsonl")):
        with pytest.raises(SystemExit, match=rf"report.py: {folder} .*{words}"):
            report.main([str(folder)])


def test_it_starts_without_torch():
    code = "import sys, report; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(report.__file__).parent).returncode
        == 0
    )


def test_a_page_that_cannot_be_made_fails_no_run(tmp_path, capsys, monkeypatch):
    report.after_training(str(tmp_path))
    monkeypatch.setattr(report, "collect", lambda runs: 1 / 0)
    report.after_training(str(write_run(tmp_path / "a", [step_row(1, 0.5)])))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("report.html could not be made") and "metrics.jsonl" in first
    assert "ZeroDivisionError" in second


@pytest.mark.slow
def test_a_training_run_ends_with_its_page(finished):
    data = data_of((finished / "report.html").read_text())
    steps = [row for row in lines(finished, "metrics") if "reward" in row]
    mean = data["groups"][0]["curves"]["reward"]["mean"]
    assert mean[-4:] == pytest.approx([row["reward"] for row in steps], rel=1e-4)
    assert [len(tree["rows"]) for tree in data["runs"][0]["trees"]] == [16] * 4


# ---- in a browser

# what a reader does, in a copy of the page; what it shows then goes to the element "found"
ERRORS = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
console.error = (...words) => errors.push(words.join(" "));
</script>"""
VISIT = """<script>
addEventListener("load", () => {
const found = {}, all = (query) => [...document.querySelectorAll(query)];
const press = (id, value) => document.querySelector(`#${id} [data-value="${value}"]`).click();
const hero = () => document.querySelector("#hero .curve").getAttribute("d");
const tints = () => all("#tokens span").map((node) => node.getAttribute("style")).join();
const paper = () => getComputedStyle(document.body).backgroundColor;
const choose = (id, value) => {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event("input"));
  document.getElementById(id).dispatchEvent(new Event("change"));
};
const change = (look, act) => { const before = look(); act(); return before !== look(); };
found.headline = document.getElementById("headline").textContent;
found.legend = all("#legend li").length;
found.panels = all("#panels svg").length;
found.bands = all("#hero path[opacity]").length;
found.axis = ["tokens", "seconds"].every((axis) => change(hero, () => press("axis", axis)));
found.metric = change(hero, () => choose("metric", "entropy"));
choose("step", 0);
found.step = document.getElementById("step-name").textContent;
found.rows = all("#tree .row").length;
found.pairs = all("#tokens .pair").length;
all("#tree .row")[4].dispatchEvent(new MouseEvent("click"));
found.hostile = document.querySelector("#tokens .tokens").textContent;
found.tools = all("#tokens > .tokens .tool").length;
found.elements = all("#tokens b").length;
choose("rollout", 0);
found.forks = all("#tokens > .tokens .fork").map((node) => node.textContent);
found.pairs = all("#tokens .pair h3").map((node) => node.textContent);
for (const name of ["omega", "score", "advantage"])
  found[name] = change(tints, () => press("paint", name));
all("#tokens span")[2].dispatchEvent(new MouseEvent("click", { bubbles: true }));
found.reading = document.getElementById("reading").textContent;
found.same = document.getElementById("same").textContent;
found.points = all("#points tbody tr").length;
all("#filters input")[0].click();
found.filtered = all("#points tbody tr").map((row) => row.textContent);
all("#points tbody button")[0].click();
all("#points th button").at(-1).click();
found.cloud = all("#cloud > span").map((node) => node.textContent);
found.calls = all("#tools tbody tr").map((row) => row.textContent);
found.alarms = all("#alarms li").map((node) => node.textContent);
found.themes = change(paper, () => { press("theme", "light"); press("theme", "dark"); });
choose("run", 2);
found.other = all("#alarms li").map((node) => node.textContent);
found.errors = errors;
const note = document.createElement("p");
note.id = "found";
note.textContent = JSON.stringify(found);
document.body.append(note);
});
</script>"""
# a page in a frame 390 pixels wide: does anything stick out?
FRAME = """<iframe style="width: 390px; height: 3000px" srcdoc="{page}"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const note = document.createElement("p");
  note.id = "found";
  note.textContent = JSON.stringify({{ width: frame.contentWindow.innerWidth,
    needed: frame.contentDocument.documentElement.scrollWidth }});
  document.body.append(note);
}};
</script>"""


def visited(page: str, folder: Path) -> dict:
    """What a page leaves in its element "found"."""
    (folder / "visit.html").write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    flags += "--disable-background-networking --disable-component-update --dump-dom "
    flags += f"--virtual-time-budget=5000 --user-data-dir={folder / 'profile'} "
    command = [CHROMIUM, *flags.split(), f"file://{folder / 'visit.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    text = re.search(r'<p id="found">(.*?)</p>', done.stdout, re.S)
    assert text, done.stderr[-2000:]
    return json.loads(html.unescape(text[1]))


@pytest.mark.slow
@in_browser
def test_the_page_in_a_browser(tmp_path):
    report.main([*map(str, two_groups(tmp_path)), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    copy = page.replace("<head>", "<head>" + ERRORS).replace("</body>", VISIT + "</body>")
    found = visited(copy, tmp_path)
    assert found["errors"] == []
    assert found["headline"] == "Last numbers: mean reward 0.500 (a, b); mean reward 1.000 (c)."
    assert (found["legend"], found["bands"], found["panels"]) == (2, 1, 4)
    assert (found["step"], found["rows"], found["points"], found["tools"]) == ("1", 5, 6, 1)
    for switch in ("axis", "metric", "omega", "score", "advantage", "themes"):
        assert found[switch], switch
    assert HOSTILE in found["hostile"] and found["elements"] == 0
    assert found["forks"] == [" So", " old"]
    assert found["pairs"][0].startswith(
        "Branch 2 at token 1:  So \u2192  Well, reward 0 \u2192 1; "
    )
    assert found["reading"].endswith("entropy 0.200, omega 1.020, score 0, advantage -1")
    assert "33% drew the same token again" in found["same"]
    changed = " So Well0 \u2192 10.1001.010-1"
    assert found["filtered"] == ["101" + changed, "421" + changed]
    assert found["cloud"] == ["old4", "So2"]
    assert found["calls"] == ["python2100%0%5 s5 s", "search40%100%100 ms500 ms"]
    assert found["alarms"] == [f"Alarm at step 3: alarm of a {HOSTILE}"]
    assert found["other"] == [f"Alarm at step 3: alarm of c {HOSTILE}"]


@pytest.mark.slow
@in_browser
def test_branches_of_branches_are_drawn(tmp_path):
    tree = made_tree()
    tree.append(branch(5, tree[2], 2, [" deep"], 0.5, calls=[]))
    report.write_report([write_run(tmp_path / "a", [step_row(1, 0.5)], tree)])
    look = """<script>
document.querySelector('#tree [data-index="5"]').dispatchEvent(new MouseEvent("click"));
const note = document.createElement("p");
note.id = "found";
note.textContent = JSON.stringify({ errors, rows: document.querySelectorAll("#tree .row").length,
  pair: document.querySelector("#tokens .pair h3").textContent });
document.body.append(note);
</script>"""
    page = (tmp_path / "a" / "report.html").read_text()
    copy = page.replace("<head>", "<head>" + ERRORS).replace("</body>", look + "</body>")
    found = visited(copy, tmp_path)
    assert found["errors"] == [] and found["rows"] == 6
    assert found["pair"].startswith("Branch 5 at token 2:  7 \u2192  deep, reward 1 \u2192 0.5")


@pytest.mark.slow
@in_browser
def test_nothing_sticks_out_on_a_small_screen(tmp_path):
    long = made_tree() + made_tree(2)
    long[0]["pieces"] = ["<think>", " So", " " + "x" * 300, " old", "</think>"]
    folder = write_run(tmp_path / "a", [step_row(k, 0.5) for k in (1, 2)], long, {"seed": 1})
    report.write_report([folder])
    page = html.escape((folder / "report.html").read_text())
    found = visited(FRAME.format(page=page), tmp_path)
    assert found["width"] == 390 and found["needed"] <= 390
