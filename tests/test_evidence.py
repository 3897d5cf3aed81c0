"""docs/evidence.md and docs/study.md: every table and interval is that of the committed results."""

import json
import re
from itertools import takewhile
from pathlib import Path

import pytest
from test_docs import section

from extras.pilot import tables as pilot_tables
from extras.pilot.__main__ import show as pilot_show
from extras.study.arms import CURVES
from extras.study.curves import load
from extras.study.figure import picture as study_picture
from extras.study.pace import at_pace
from extras.study.signal import SIGNALS
from extras.study.tables import (
    difference_table,
    ends_table,
    questions_table,
    shown,
    table_of,
    trials_table,
    world_table,
)
from extras.study.trials import CHOSEN, RETUNED, SEQUENCES

HERE = Path(__file__).resolve().parent.parent


def cells_of(table: str) -> dict[str, list[str]]:
    """First cell of each row -> the others."""
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    return {name: cells for name, *cells in rows}


def test_the_rates_of_the_page_are_those_of_its_curves():
    """Every trial of `best rates` and `best rates_32` is a cell, and every cell a trial."""
    printed = {}
    for table, step in (("rates", 64), ("rates_32", 32)):
        rows = trials_table([c for c in load(CURVES) if c.table == table]).splitlines()[2:]
        for arm, _, trial, late, late_long, _ in (row.strip("| ").split(" | ") for row in rows):
            minibatch, rate = re.fullmatch(r"m(\d+) lr(\S+)", trial).groups()
            update = int(minibatch) * SEQUENCES[arm]
            printed[arm, update, step, float(rate)] = f"{late}, {late_long}"
    head, _, *rows = (HERE / "docs/study.md").read_text().split("| arm | 64, ")[1].splitlines()
    columns = [cell.split(", ") for cell in f"64, {head}".strip("| ").split(" | ")]
    names = {"ours: `tree`, B = 1": "tree, B = 1", "ours: `tree`, B = 7": "tree"}
    names |= {"ours: `tree`, B = 3": "tree, B = 3", "`appo`, 32 sequences an update": "appo"}
    shown = {}
    for row in takewhile(lambda row: row.startswith("|"), rows):
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        arm, update = names.get(name, name.strip("`")), 32 if "32" in name else 16
        for (step, rate), cell in zip(columns, cells, strict=True):
            if cell:
                shown[arm, update, int(step), float(rate)] = cell
    assert {key: cell.replace("**", "") for key, cell in shown.items()} == printed
    # bold is the best of an arm in a world
    for arm in {key[0] for key in shown}:
        for n in range(2):
            cells = [cell.split(", ")[n] for key, cell in shown.items() if key[0] == arm]
            best = max(cell.strip("*") for cell in cells)
            assert [cell for cell in cells if "*" in cell] == [f"**{best}**"], arm


def test_the_settings_of_the_page_are_those_of_the_runs():
    """Sequences a step and rate of each arm, in late and in late_long."""
    text = (HERE / "docs/evidence.md").read_text()
    for arm in RETUNED["late"]:
        cells = [
            f"{step}, {lr:.0e}".replace("e-0", "e-")
            for step, lr in (RETUNED[world][arm] for world in ("late", "late_long"))
        ]
        sep = r" \| "
        assert re.search(rf"\n\| `{arm}`.* \| {sep.join(cells)} \|\n", text), arm


@pytest.mark.slow
def test_the_tables_of_the_study_are_those_of_its_curves():
    text, readme = ((HERE / name).read_text() for name in ("docs/evidence.md", "README.md"))
    curves = [curve for curve in load(CURVES) if curve.table == "retuned"]
    means = {"appo": [], "grpo_4": [], "tree, B = 3": []}
    for world in ("late", "late_long"):
        own = at_pace([curve for curve in curves if curve.world == world])
        table = world_table(own)
        assert table in text and ends_table(own) in text, world
        for baseline in ("grpo_4", "grpo_8", "grpo_16"):
            cells = cells_of(difference_table(own, baseline))["appo"]
            row = " | ".join([f"`{baseline}`", *cells]).replace("-", "−")
            assert f"\n| {row} |\n" in text, (world, baseline)
        for arm, levels in means.items():
            mean = re.search(rf"\| {arm} \| \d+ \| \d \| (\d\.\d+)", table)[1]
            # a row shows three digits: 0.705 may be above
            levels.append(f"{float(mean) + 1e-4:.2f}")
    said = " ".join(readme.split())
    own, other, ours = (" and ".join(levels) for levels in means.values())
    assert f"mean accuracy in training is {own}, that of GRPO with 4 rollouts {other}." in said
    assert f"trains on its branches: {ours}, not" in said
    assert "show retuned" in readme
    assert study_picture(curves) == (HERE / "docs/study-retuned.svg").read_text()


def test_the_table_of_our_departures_is_that_of_its_curves():
    """Of each world the mean at equal sampled tokens, less appo's and less grpo_4's."""
    text = section((HERE / "docs/evidence.md").read_text(), "APPO as the paper writes it")
    rows = {}
    for world in ("late", "late_long"):
        own = [c for c in load(CURVES) if c.table == "departures" and c.world == world]
        less = [cells_of(difference_table(own, baseline)) for baseline in ("appo", "grpo_4")]
        for arm, cells in cells_of(world_table(own)).items():
            rows.setdefault(arm, [arm]).extend(
                [cells[2], *(table.get(arm, [""])[0] for table in less)]
            )
    assert len(rows) == 4
    for row in rows.values():
        assert f"\n| {' | '.join(row)} |\n".replace("-", "−") in text.replace("-", "−"), row[0]


@pytest.mark.slow
def test_the_table_with_steps_of_16_prompts_is_that_of_its_curves():
    """Means at equal sampled and trained tokens in late, then in late_long."""
    text, cells = (HERE / "docs/study.md").read_text(), {}
    for world in ("late", "late_long"):
        own = [c for c in load(CURVES) if c.table == "main" and c.world == world]
        for row in world_table(at_pace(own)).splitlines()[2:]:
            arm, _, _, sampled, trained, *_ = row.strip("| ").split(" | ")
            cells.setdefault(arm, []).extend((sampled, trained))
    assert cells.keys() == CHOSEN.keys()
    for arm, numbers in cells.items():
        assert f"\n| {' | '.join([arm, *numbers])} |\n" in text, arm


@pytest.mark.slow
@pytest.mark.parametrize(
    "title, table, baseline, name",
    [
        ("Every method at one setting", "methods", "grpo", "`{}`"),
        ("Which parts of APPO matter?", "variants", "appo", "{}"),
    ],
)
def test_the_table_of_an_untuned_comparison_is_that_of_its_curves(title, table, baseline, name):
    """Mean, less the baseline's; then a second budget: of methods the mean, of variants less
    appo's; updates and trained share."""
    text = section((HERE / "docs/evidence.md").read_text(), title)
    own = at_pace([c for c in load(CURVES) if c.table == table])
    less = cells_of(difference_table(own, baseline))
    assert len(less) == {"methods": 16, "variants": 17}[table]
    for arm, found in cells_of(world_table(own)).items():
        sampled, _, _, updates, *_ = less.get(arm, [""] * 5)
        second = found[3] if table == "methods" else updates
        row = [name.format(arm), found[2], sampled, second, *found[8:10]]
        assert f"\n| {' | '.join(row)} |\n".replace("-", "−") in text.replace("-", "−"), arm


def test_the_first_trials_in_late_deep_are_those_of_the_curves():
    """The best trial of each arm: its mean, sequences a step, rate."""
    text = section((HERE / "docs/study.md").read_text(), "More calls before the branch")
    trials = trials_table([c for c in load(CURVES) if c.table == "deep"]).splitlines()[2:]
    best = {}
    for arm, _, trial, mean, _ in (row.strip("| ").split(" | ") for row in trials):
        prompts, rate = re.fullmatch(r"p(\d+) m\d+ lr0.000(\d)", trial).groups()
        best.setdefault(arm, f"{mean} | {int(prompts) * SEQUENCES[arm]}, {rate}e-4 |")
    names = {"tree, turn 3": "`tree`, N = 2, B = 3", "tree, N = 1, turn 3": "`tree`, N = 1, B = 7"}
    assert names.keys() < best.keys()
    for arm, cells in best.items():
        name = f"ours: {names[arm]}, behind two results" if arm in names else f"`{arm}`"
        assert f"\n| {name} | {cells}\n" in text, arm


def test_the_choices_of_ours_are_those_of_the_curves():
    """Both worlds and their mean, the best first; all trials have one rate."""
    text = section((HERE / "docs/study.md").read_text(), "Ours with one choice changed")
    trials = trials_table([c for c in load(CURVES) if c.table == "ours"]).splitlines()[2:]
    rows = [row.strip("| ").split(" | ") for row in trials]
    assert len(rows) == 11 and {trial.split(" ")[-1] for _, _, trial, *_ in rows} == {"lr0.0004"}
    rows = sorted(([arm, *means] for arm, _, _, *means in rows), key=lambda row: -float(row[-1]))
    assert "\n".join(f"| {' | '.join(row)} |" for row in rows) in text


def test_the_runs_of_a_language_model_are_those_of_the_curves():
    text = section((HERE / "docs/evidence.md").read_text(), "A language model")
    for table in ("smollm2_again", "smollm2"):
        own = [c for c in load(CURVES) if c.table == table]
        assert len(own) == 6 and questions_table(own) in text, table


def test_the_rates_of_a_language_model_are_those_of_the_curves():
    """On a design seed: held-out accuracy before and after, mean of the curve."""
    text = section((HERE / "docs/study.md").read_text(), "SmolLM2's rate")
    curves = [c for c in load(CURVES) if c.table == "language"]
    assert len(curves) == 6
    for c in curves:
        arm, rate = c.arm.split(" lr")
        mean = c.mean("sampled tokens", 30_000)
        cells = [f"`{arm}`", rate.replace("e-0", "e-"), f"{c.before:.3f}", f"{c.after:.3f}"]
        assert f"\n| {' | '.join(cells)} | {mean:.3f} |\n" in text, c.arm


@pytest.mark.slow
def test_the_table_of_worlds_is_that_of_its_curves():
    text = section((HERE / "docs/study.md").read_text(), "Do the worlds teach?")
    curves = [c for c in load(CURVES) if c.table == "instruments"]
    rows = [f"| `{c.world}` | {c.before:.3f} | {c.after:.3f} |" for c in curves]
    assert len(rows) == 5 and all(f"\n{row}\n" in text for row in rows)


INTERVAL = re.compile(r"(−?\d+\.\d{3}) \((−?\d+\.\d{3}) to (−?\d+\.\d{3})\)")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page, title, table",
    [
        ("evidence", "Does branching pay?", "retuned"),
        ("evidence", "Which parts of APPO matter?", "variants"),
        ("evidence", "APPO as the paper writes it", "departures"),
        ("study", "With steps of 16 prompts", "main"),
    ],
)
def test_the_differences_in_the_text_are_those_of_the_curves(page, title, table):
    """Every interval of a sentence is one of difference_table, or the same the other way round."""
    prose = section((HERE / f"docs/{page}.md").read_text(), title).splitlines()
    named = [m.groups() for x in prose if not x.startswith("|") for m in INTERVAL.finditer(x)]
    found = set()
    every = [c for c in load(CURVES) if c.table == table]
    for world in {c.world for c in every}:
        curves = at_pace([c for c in every if c.world == world])
        for baseline in {"appo", "grpo_4"} & {c.arm for c in curves}:
            text = difference_table(curves, baseline).replace("-", "−")
            found |= {m.groups() for m in INTERVAL.finditer(text)}

    def turned(number: str) -> str:
        return number[1:] if number.startswith("−") else f"−{number}"

    other = {(turned(mean), turned(high), turned(low)) for mean, low, high in found}
    assert len(named) > 5 and [x for x in named if x not in found | other] == []


def test_the_signal_of_the_page_is_that_of_its_rows():
    found = json.loads(SIGNALS.read_text())
    first = next(iter(found.values()))
    rows = [
        [arm, *(shown(*rows[arm][2:5]) for rows in found.values())]
        for arm in sorted(first, key=lambda arm: -first[arm][2])
    ]
    text = section((HERE / "docs/study.md").read_text(), "Signal to noise")
    assert table_of(["arm", *found], rows) in text


def pilot_results() -> dict[str, dict]:
    files = sorted((HERE / "extras/pilot/results").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def test_the_intervals_of_the_pilot_study_are_those_of_its_results():
    """Each is in the tables of one world, in the same order of bounds."""
    printed = (HERE / "docs/pilot.md").read_text()
    found = {m.groups() for m in INTERVAL.finditer(printed.replace("-", "−"))}
    text = section((HERE / "docs/evidence.md").read_text(), "The pilot study")
    named = [m.groups() for m in INTERVAL.finditer(text)]
    assert len(named) > 20 and [x for x in named if x not in found] == []


def test_the_branch_points_of_the_pilot_study_are_those_of_its_results():
    """A row of evidence.md holds the rows of all worlds, number by number."""
    results = pilot_results()
    text = section((HERE / "docs/evidence.md").read_text(), "The pilot study")
    worlds = [results[name] for name in ("late", "late_long", "easy")]
    rows = [cells_of("\n".join(pilot_tables.decisions_table(found)[2:])) for found in worlds]
    for name in ("branching score", "entropy", "random"):
        cells = [", ".join(numbers) for numbers in zip(*(row[name] for row in rows))]
        assert f"\n| {name} | {' | '.join(cells)} |\n" in text, name


@pytest.mark.slow
def test_the_page_of_the_pilot_study_is_that_of_its_results(tmp_path):
    pilot_show(tmp_path)
    for name in ("pilot.md", "pilot-a.svg", "pilot-b.svg", "pilot-c.svg"):
        assert (tmp_path / name).read_text() == (HERE / "docs" / name).read_text(), name
