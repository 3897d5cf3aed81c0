"""support/scores.py: the estimators, by hand and by their definitions."""

import itertools
import math
import statistics

import pytest
import torch
from eval_parts import made_row

from support.scores import bootstrap, broken_format, numbers_of, pass_at_k, table


@pytest.mark.parametrize("n, c", [(5, 0), (5, 2), (5, 5), (8, 3)])
def test_pass_at_k_equals_the_average_over_all_subsets(n, c):
    results = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        assert pass_at_k(n, c, k) == pytest.approx(
            statistics.mean(max(s) for s in itertools.combinations(results, k))
        )
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, c, n + 1)


def test_numbers_by_hand():
    ok, bad = ["python", "1", "ok", 0.1], ["search", "q", "infra", 0.1]
    rows = [
        made_row("a", ("5", [ok]), ("5.0", [ok, bad]), ("6", []), (None, [])),
        made_row("b", ("1", []), ("2", []), ("3", [ok]), ("4", [])),
    ]
    n = numbers_of(rows)
    assert (
        n["avg@4"] == 0.25 and n["pass@4"] == 0.5 and n["pass@2"] == pytest.approx((1 - 1 / 6) / 2)
    )
    assert (
        n["format_errors"] == 1 / 8
        and n["calls"] == 0.5
        and n["tokens"] == 10
        and n["length"] == 20
    )
    assert n["python_ok"] == 1 and n["search_infra"] == 1 and "judge_avg@4" not in n
    assert n["reward"] == pytest.approx((1 + 1 + 0 - 1) / 8) and n["truncated"] == 0


def test_standard_errors_by_hand():
    """30 of 100 questions right, the others wrong: sqrt(p (1 - p) / 100) for all three."""
    rows = [
        made_row(str(k), ("5" if k < 30 else "6", []), ("5" if k < 30 else "6", []))
        for k in range(100)
    ]
    n = numbers_of(rows)
    assert [n[name] for name in ("avg@2_se", "pass@2_se", "f1_se")] == pytest.approx(
        [math.sqrt(0.3 * 0.7 / 100)] * 3, rel=0.1
    )


def test_truncated_counts_budget_and_calls():
    rows = [made_row("a", ("5", []), ("5", []), ("5", []), ("5", []))]
    for sample, finish in zip(rows[0]["samples"], ("length", "calls", "stop", "forged")):
        sample["finish"] = finish
    assert numbers_of(rows)["truncated"] == 0.5


def test_questions_with_too_few_verdicts_are_left_out():
    """4 samples each; verdicts of the judge: 4, 2 and none."""
    rows = [made_row(name, *[("5", [])] * 4) for name in "abc"]
    for row, verdicts in zip(
        rows, ([True, False, False, False], [True, False, None, None], [None] * 4)
    ):
        for sample, verdict in zip(row["samples"], verdicts):
            sample["judged"] = verdict
    n = numbers_of(rows)
    assert (
        n["judge_avg@4"] == (0.25 + 0.5) / 2
        and n["judge_pass@2"] == pytest.approx((0.5 + 1) / 2)
        and n["judge_pass@4"] == 1
    )
    assert [n[f"judge_{name}_questions"] for name in ("avg@4", "pass@2", "pass@4")] == [
        2,
        2,
        1,
    ] and n["judge_failed"] == 0.5
    assert "avg@4_questions" not in n and "pass@4_questions" not in n
    for row in rows:
        row["samples"][0]["judged"] = None
    n = numbers_of(rows)
    assert (
        "judge_pass@4" not in n and "judge_pass@4_se" not in n and n["judge_pass@4_questions"] == 0
    )


def test_bootstrap_takes_little_memory_and_the_same_draws():
    values = torch.rand(
        5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).tolist()
    picked = torch.randint(5000, (500, 5000), generator=torch.Generator().manual_seed(0))
    assert (
        bootstrap(values, 500)
        == torch.tensor(values, dtype=torch.float64)[picked].mean(1).sort().values.tolist()
    )
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            largest.append(out.numel() * out.element_size() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        bootstrap(values, 500)
    assert 0 < max(largest) < 10e6


def test_bootstrap_is_the_standard_error():
    values = [1.0] * 30 + [0.0] * 70
    assert statistics.pstdev(bootstrap(values, 4000)) == pytest.approx(
        math.sqrt(0.3 * 0.7 / 100), rel=0.05
    )
    assert bootstrap([1.0, 1.0]) == [1.0] * 1000 and bootstrap(values) == bootstrap(values)


def test_levels_have_rows_of_their_own():
    rows = [
        made_row("a", ("5", []), level=1),
        made_row("b", ("6", []), level=2),
        made_row("c", ("5", []), level=2),
    ]
    lines = table({"gaia": {"rows": rows}}).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| gaia", "| gaia, 1", "| gaia, 2"]
    assert [line.split(" | ")[2].split(" ")[0] for line in lines[2:]] == ["66.7", "100.0", "50.0"]
    assert len({line.count("|") for line in lines}) == 1


def test_a_name_of_a_file_breaks_no_row():
    lines = table({"math|hard\nset": {"rows": [made_row("a", ("5", []))]}}).split("\n")
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1


def test_where_no_response_keeps_the_format_the_worst_rule_is_named_and_one_shown():
    faults = [("no <think>", "first"), ("no <think>", "second"), ("too long", "x" * 2000)]
    told, shown = broken_format(faults)
    assert "(2 of 3): no <think>" in told and "first" in shown
    told, shown = broken_format(faults[2:])
    assert "(1 of 1): too long" in told and len(shown) < 700
    assert broken_format([]) == broken_format([*faults, ("", "fine")]) == []
