"""Samples to numbers: grades, means with standard errors, a table.

1. evaluate     every question sampled and graded
2. sample_of    what is stored of a rollout
3. row_of       a question with its samples, graded
4. numbers_of   avg@k, pass@k, F1, ... of rows, with standard errors by bootstrap
5. table        the numbers of several files in Markdown
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from rewards import answer_of, format_fault, is_correct, reward
from rollout import Call, Rollout, close_all
from support.native_calls import protocol_named
from support.questions import Question
from support.reward_calls import Rewards, broken_rewards, shortened
from support.words import token_f1

# (prompts, n, a seed for each prompt, finished=) -> n rollouts of each prompt, prompt by prompt;
# finished is told each as soon as it is complete
Sample = Callable[..., list[Rollout]]
# questions that are sampled at once
BATCH = 64
# of a bootstrap: elements drawn at once, 16 MB
DRAWN = 2**20


def evaluate(
    sample: Sample,
    questions: list[Question],
    prompts: list[list[int]],
    samples: int,
    seeds: list[int],
    reward_fn: Callable | None = None,
) -> Iterator[dict]:
    """Sample every question `samples` times and grade: a row per question, in order.

    seeds: one for each question. reward_fn: (rollout, question) -> what the rollout earns.
    """
    starts = range(0, len(questions), BATCH)
    for start in tqdm(starts, desc="evaluation", disable=None, leave=False):
        part = slice(start, start + BATCH)
        asked, how = questions[part], {}
        if reward_fn:
            rewards = Rewards(lambda r, asked=asked: reward_fn(r, asked[r.group]))
            how = {"finished": rewards.begin}
        rollouts = sample(prompts[part], samples, seeds[part], questions=asked, **how)
        if reward_fn:
            rewards.set(rollouts)
            for line in broken_rewards(rollouts):
                tqdm.write(line)
        close_all(rollouts)
        for i, question in enumerate(asked):
            own = rollouts[i * samples : (i + 1) * samples]
            yield row_of(question, [sample_of(r) | own_reward(r, reward_fn) for r in own])


def own_reward(r: Rollout, reward_fn: Callable | None) -> dict:
    """What is stored of a reward of one's own: it cannot be computed again from a sample."""
    if not reward_fn:
        return {}
    given = {"reward": r.reward, "parts": r.reward_parts}
    return {"reward_fn": {"fault": r.reward_fault} if r.reward_fault else given}


def sample_of(r: Rollout) -> dict:
    """What is stored of a rollout: enough to grade it again without the model."""
    return {
        "opened": r.opened,
        "protocol": r.family.protocol.name,
        "tools": r.family.protocol.tools,
        "pieces": r.pieces,
        "finish": r.finish,
        "calls": [[c.name, c.argument, c.status, c.seconds] for c in r.calls],
        "tokens": sum(r.mask),
        "length": len(r.ids),
    }


def row_of(q: Question, samples: list[dict]) -> dict:
    """A question with its samples, graded.

    A sample gets its answer (None: the format is broken), fault (how) and reward; if the question
    has answers, also correct and f1.
    """
    return {
        "id": q.id,
        "question": q.messages[-1]["content"],
        "answers": q.answers,
        "task": q.task,
        "level": q.meta.get("level"),
        "samples": [_graded(q, sample) for sample in samples],
    }


def _graded(q: Question, sample: dict) -> dict:
    """A stored sample with its grades."""
    pieces = [tuple(piece) for piece in sample["pieces"]]
    calls = [Call(*call, start=0, end=0) for call in sample["calls"]]
    r = Rollout([0], 0, pieces=pieces, finish=sample["finish"], calls=calls)
    r.opened = sample.get("opened", "")
    r.family.protocol = protocol_named(sample.get("protocol", "tags"), sample.get("tools"))
    answer = answer_of(r)
    grades: dict = {"answer": answer, "fault": format_fault(r), "reward": None}
    if q.answers:
        grades |= {"correct": is_correct(r, q), "f1": token_f1(answer or "", q.answers)}
        grades |= {"reward": reward(r, q.answers, "auto", q.task)}
    if "reward_fn" in sample:
        grades["reward"] = sample["reward_fn"].get("reward")
    return sample | grades


# what to do about it
BROKEN = (
    "The prompt must ask for the format: a question that is a chat is sent as it is. Else give a "
    "--protocol that the model knows, more --max_tokens or, to train with tags, worked examples "
    "(--cold_start)"
)


def broken_format(faults: list[tuple[str, str]]) -> list[str]:
    """Where no response kept the format: the rule that most broke, and one of them; else nothing.

    faults: of each response, what format_fault says and the text.
    """
    if not faults or not all(fault for fault, _ in faults):
        return []
    worst, count = Counter(fault for fault, _ in faults).most_common(1)[0]
    text = next(text for fault, text in faults if fault == worst)
    told = f"no response kept the format; most often ({count} of {len(faults)}): {worst}"
    return [f"{told}. {BROKEN}. One of them:", f"  {shortened(text)!r}"]


def faults_of(rows: list[dict]) -> list[tuple[str, str]]:
    """(what broke the format, text) of every sample of rows."""
    return [
        (s["fault"], s["opened"] + "".join(text for _, text in s["pieces"]))
        for row in rows
        for s in row["samples"]
    ]


def numbers_of(rows: list[dict]) -> dict[str, float]:
    """The numbers of an evaluation with k samples a question.

    avg@k, pass@k    mean accuracy; unbiased pass@k; NAME_se: standard errors over questions
    judge_...        the same of a judge's verdicts, see accuracy_of
    f1, f1_se, reward ("auto", or that of --reward_fn, with reward_fn_NAME and reward_failed)
    format_errors, truncated          shares of samples
    calls, tokens, length             means; tokens: the policy's own; length: with results
    TOOL_STATUS                       share of that tool's calls
    """
    samples = [s for row in rows for s in row["samples"]]
    f1 = [_mean([s["f1"] for s in row["samples"]]) for row in rows if row["answers"]]
    numbers = accuracy_of(rows, "correct", "") | accuracy_of(rows, "judged", "judge_")
    numbers |= {"f1": _mean(f1), "f1_se": standard_error(f1)} if f1 else {}
    numbers |= rewards_of(samples)
    numbers |= {
        "format_errors": _mean([s["answer"] is None for s in samples]),
        "truncated": _mean([s["finish"] in ("length", "calls") for s in samples]),
        "calls": _mean([len(s["calls"]) for s in samples]),
        "tokens": _mean([s["tokens"] for s in samples]),
        "length": _mean([s["length"] for s in samples]),
    }
    calls = Counter((name, status) for s in samples for name, _, status, _ in s["calls"])
    total = Counter(name for s in samples for name, *_ in s["calls"])
    shares = {f"{name}_{status}": n / total[name] for (name, status), n in sorted(calls.items())}
    return numbers | shares


def rewards_of(samples: list[dict]) -> dict[str, float]:
    """The mean reward; of a reward of one's own also its other numbers, and how often it failed."""
    given = [s["reward"] for s in samples if s.get("reward") is not None]
    own = [s["reward_fn"] for s in samples if "reward_fn" in s]
    numbers = {"reward": _mean(given)} if given else {}
    numbers |= {"reward_failed": _mean(["fault" in o for o in own])} if own else {}
    parts = [o["parts"] for o in own if "parts" in o]
    for name in sorted({name for part in parts for name in part}):
        numbers[f"reward_fn_{name}"] = _mean([part[name] for part in parts if name in part])
    return numbers


def _mean(values: list) -> float:
    return sum(values) / len(values)


def accuracy_of(rows: list[dict], verdict: str, prefix: str) -> dict[str, float]:
    """avg@k and pass@k of one kind of verdict, with standard errors.

    Samples without a verdict are left out; PREFIXfailed is their share. avg@k is over the questions
    with a verdict, pass@j over those with at least j: unbiased, if verdicts fail whatever the
    answer. NAME_questions says over how many, if not over all.
    """
    k = max(len(row["samples"]) for row in rows)
    asked = [s for row in rows for s in row["samples"] if verdict in s]
    if not asked:
        return {}
    verdicts = [[s[verdict] for s in row["samples"] if s.get(verdict) is not None] for row in rows]
    values = {f"avg@{k}": [_mean(given) for given in verdicts if given]}
    # 2, 4, 8, ... and k
    for j in sorted({2**power for power in range(1, k.bit_length()) if 2**power < k} | {k}):
        enough = [given for given in verdicts if len(given) >= j]
        values[f"pass@{j}"] = [pass_at_k(len(given), sum(given), j) for given in enough]
    numbers = {"judge_failed": _mean([s[verdict] is None for s in asked])} if prefix else {}
    for name, x in values.items():
        if x:
            numbers |= {f"{prefix}{name}": _mean(x), f"{prefix}{name}_se": standard_error(x)}
        if len(x) < len(rows):
            numbers[f"{prefix}{name}_questions"] = len(x)
    return numbers


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate, from n samples of which c are right, that one of k is right.

        pass@k = 1 - C(n-c, k) / C(n, k)

    Raises: ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def standard_error(values: list[float]) -> float:
    """Standard deviation of the mean over resamples."""
    return statistics.pstdev(bootstrap(values))


def bootstrap(values: list[float], resamples: int = 1000) -> list[float]:
    """Means of resamples of the values with replacement, sorted; the same for the same values."""
    x = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    means = []
    size = max(1, DRAWN // len(x))
    for start in range(0, resamples, size):
        picked = torch.randint(len(x), (min(size, resamples - start), len(x)), generator=generator)
        means += x[picked].mean(1).tolist()
    return sorted(means)


COLUMNS = ["data", "questions", "avg@k", "pass@k", "F1", "judge", "format errors", "truncated"]
COLUMNS += ["reward", "calls", "calls ok", "tokens"]


def table(results: dict[str, dict]) -> str:
    """Results in Markdown: a row per file, and a row per level where the questions have levels."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, result in results.items():
        rows = result["rows"]
        lines.append(_table_row(name, rows))
        levels = sorted({str(row["level"]) for row in rows if row["level"] is not None})
        for level in levels if len(levels) > 1 else []:
            of_level = [row for row in rows if str(row["level"]) == level]
            lines.append(_table_row(f"{name}, {level}", of_level))
    return "\n".join(lines)


def _table_row(name: str, rows: list[dict]) -> str:
    """One row of the table: percent, with the standard error where there is one."""
    n, k = numbers_of(rows), max(len(row["samples"]) for row in rows)
    calls = [status for row in rows for s in row["samples"] for _, _, status, _ in s["calls"]]
    # a name may be any file's
    name = " ".join(name.replace("|", "/").split())
    measures = [f"avg@{k}", f"pass@{k}", "f1", f"judge_avg@{k}", "format_errors", "truncated"]
    cells = [name, f"{len(rows)} x {k}", *[_percent(n, measure) for measure in measures]]
    cells.append(f"{n['reward']:.2f}" if "reward" in n else "")
    cells.append(f"{n['calls']:.2f}")
    cells.append(f"{100 * calls.count('ok') / len(calls):.0f}" if calls else "")
    cells.append(f"{n['tokens']:.0f}")
    return f"| {' | '.join(cells)} |"


def _percent(numbers: dict[str, float], key: str) -> str:
    """A number in percent with its standard error; "" without it."""
    if key not in numbers:
        return ""
    error = f" ± {100 * numbers[key + '_se']:.1f}" if key + "_se" in numbers else ""
    return f"{100 * numbers[key]:.1f}{error}"
