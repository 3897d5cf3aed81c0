"""The judge: questions in, rewards and scores out.

    load_questions    .jsonl and .parquet files in the formats of verl/ARPO, ARPO's evaluation, TRL and plain {"question", "answer"}
    released_reward   the reward of the released code, bug for bug
    reward            ours: only what the policy wrote counts, mathematics is graded as mathematics, executed calls earn the bonus
    exact_match, token_f1, math_equal, last_boxed
    evaluate          avg@k, pass@k, tool calls per question
    python eval.py --model M --data bench.jsonl --samples 5

Differs from the released code in: the answer is read from the policy's own text, so that a search result holding "<answer>" neither breaks nor makes a
format; -5 is not 5 and 1/2 is 0.5.
"""
import argparse
import dataclasses
import json
import math
import re
import string
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import transformers

from appo import Policy, Sampler, add_flags, check_options, encode_prompt, mix_seed, option, sample_initial, versions
from tools import open_tools

SYSTEM_PROMPT = (
    "Answer the question by reasoning in steps. Two tools are at hand: a search engine over an encyclopedia and a Python interpreter. "
    "Reason inside <think> and </think>. To search, write <search> your query </search>; to compute, write <python> your code </python>; "
    "what the tool returns follows between <result> and </result>. Reason and use tools as often as needed, for instance: "
    "<think> I need a fact. </think> <search> a query </search> <result> what was found </result> <think> Now compute. </think> "
    "<python> print(6 * 7) </python> <result> 42 </result> <think> Done. </think> <answer> The answer is \\[ \\boxed{42} \\] </answer>. "
    "The last thing to write is <answer> ... </answer> with the exact final answer in \\boxed{}.")
REWARDS = ("auto", "f1", "math", "released")
BONUS = 0.1             # for a correct answer that used both tools


@dataclass(frozen=True)
class Question:
    """One question. messages: the chat up to the assistant; answers: all that count as right; task: "math" or "qa" (how it is graded)."""
    id: str
    messages: list
    answers: list[str]
    task: str
    meta: dict = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------------------------------------- questions

def load_questions(path: str, skip_bad: bool = False, task: str = "auto") -> list[Question]:
    """Read questions from a .jsonl or .parquet file.

    A row is one of: verl/ARPO ({"prompt": [messages], "reward_model": {"ground_truth": ...}, ...}), ARPO evaluation ("question",
    "Question" or "problem" with "answer"), TRL ("prompt" as messages or text, with "answer" or "ground_truth"). An answer is a string,
    a number or a list of them; "... #### 18" (GSM8K) counts as "18". The backspace that stands for the \\b of \\boxed in the authors'
    files is repaired; meta["repaired"] says where.

    Args:   skip_bad: leave out rows without a question or an answer and print which, instead of raising.
            task: "math" or "qa" for all rows; "auto": the row's own "task" or "ability", else guessed from the answers (see guess_task).
    Raises: FileNotFoundError; ValueError with a line per bad row (file, row, what is missing), or for a file that cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"data file {path} does not exist")
    questions, bad = [], []
    for number, row in _rows(file):
        try:
            questions.append(_question(row, f"{path}, row {number}", number, task))
        except ValueError as problem:
            bad.append(str(problem))
    if bad and not skip_bad:
        more = [f"... and {len(bad) - 10} more"] if len(bad) > 10 else []
        raise ValueError("\n".join(bad[:10] + more + ["--skip_bad leaves such rows out"]))
    for problem in bad:
        print(f"left out: {problem}")
    if not questions:
        raise ValueError(f"{path} holds no question")
    return questions


def _rows(file: Path):
    """(row number from 1, object or line of JSON) of a file."""
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise ValueError(f"{file} is a parquet file: run `pip install pyarrow`, or convert it to .jsonl") from None
        try:
            yield from enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1)
        except (pyarrow.ArrowException, OSError) as problem:
            raise ValueError(f"{file} is not a readable parquet file: {problem}") from None
    else:
        try:
            with open(file, encoding="utf-8") as lines:
                yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        except UnicodeDecodeError as problem:
            raise ValueError(f"{file} is not UTF-8 text: {problem}") from None


def _question(row: dict | str, where: str, number: int, task: str = "auto") -> Question:
    """One row, an object or a line of JSON, as a Question; ValueError naming the row if it is none."""
    try:
        row = json.loads(row) if isinstance(row, str) else row
        asked = next((row[key] for key in ("prompt", "question", "Question", "problem") if row.get(key)), None)
        messages = _messages(asked) if asked else []
        places = [(row.get("reward_model") or {}).get("ground_truth"), *(row.get(key) for key in ("answer", "answers", "ground_truth", "golden_answers"))]
        answers = next((found for found in map(_answers, places) if found), [])
    except json.JSONDecodeError as problem:
        raise ValueError(f"{where} is not JSON: {problem}") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"{where} has another form than the ones known: {problem!r}") from None
    if not messages:
        raise ValueError(f'{where} has no question: one of "prompt", "question", "Question", "problem"')
    if not answers:
        raise ValueError(f'{where} has no answer: one of "answer", "answers", "ground_truth", "reward_model.ground_truth", not empty')
    mended = [m | {"content": m["content"].replace("\x08oxed", "\\boxed")} for m in messages]
    named = str(row.get("task") or row.get("ability") or "").lower()
    kind = task if task != "auto" else named if named in ("math", "qa") else guess_task(answers)
    meta = {k: row[k] for k in ("level", "Level", "data_source", "type") if row.get(k) is not None} | {"row": number, "repaired": mended != messages}
    return Question(str(row.get("id", row.get("task_id", number))), mended, answers, kind, meta)


def _messages(asked) -> list[dict]:
    """A question's text or chat as messages of role and text; TypeError for anything else."""
    if isinstance(asked, str):
        return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": asked}]
    messages = [{"role": m["role"], "content": m["content"]} for m in asked]
    if not all(isinstance(text, str) for m in messages for text in m.values()):
        raise TypeError("a message's role and content must be text")
    return messages


def _answers(value) -> list[str]:
    """Any of the field's answer forms as a list of non-empty strings."""
    if isinstance(value, dict):
        value = value.get("target")
    if isinstance(value, (list, tuple)):
        return [a for v in value for a in _answers(v)]
    text = "" if value is None else str(value).split("####")[-1].strip()
    return [text] if text else []


def guess_task(answers: list[str]) -> str:
    """"math" if an answer is written in LaTeX or if all are numbers ("-3", "1,000", "3/4", "$5", "50%"), else "qa"."""
    latex = any(re.search(r"\\[A-Za-z]+|\\[%$]|[_^]\{?\w", a) for a in answers)
    return "math" if latex or all(re.fullmatch(r"[$£€]?\s*[-+−]?[\d,]*\.?\d+(\s*/\s*\d+)?\s*%?", a) for a in answers) else "qa"


# ---------------------------------------------------------------------------------------------------------------------------------------------- grading

def last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{...}, None if there is none. One pass, linear in the text."""
    best, open_braces = (-1, None), []
    for brace in re.finditer(r"\\boxed\{|\{|\}", text):
        if brace[0] != "}":
            open_braces.append(brace)
        elif open_braces:
            start = open_braces.pop()
            if len(start[0]) > 1 and start.start() > best[0]:
                best = start.start(), text[start.end():brace.start()]
    return best[1]


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no a/an/the, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(pred: str, golds: list[str]) -> bool:
    """Does the prediction equal one of the golds in normal form? If a gold has no normal form (punctuation alone), as it is written."""
    same = lambda gold: normalize_answer(pred) == normalize_answer(gold) if normalize_answer(gold) else pred.strip() == gold.strip()
    return any(same(gold) for gold in golds)


def token_f1(pred: str, golds: list[str]) -> float:
    """Best F1 over the golds of the bags of words in normal form; yes, no and noanswer must match exactly. In [0, 1]."""
    best, words = 0.0, normalize_answer(pred)
    for gold in map(normalize_answer, golds):
        if words != gold and {words, gold} & {"yes", "no", "noanswer"}:
            continue
        common = (Counter(words.split()) & Counter(gold.split())).total()
        if common:
            best = max(best, 2 * common / (len(words.split()) + len(gold.split())))
    return best


def math_equal(pred: str, gold: str) -> bool:
    """Do two short mathematical answers mean the same?

    Numbers, fractions, mixed numbers and percent exactly, as rationals (a percent sign on one side only may mean either); else the strings, freed of
    LaTeX's layout. Evaluates nothing, so that "x+1" and "1+x" differ.
    """
    a, b = _plain_math(pred), _plain_math(gold)
    if a == b:
        return bool(a)
    x, y = _number(a), _number(b)
    if x is None or y is None:
        return False
    one_percent = a.endswith("%") != b.endswith("%")
    return x == y or (one_percent and (x == y / 100 or y == x / 100))


def _plain_math(text: str) -> str:
    """LaTeX without layout: one spelling for fractions and roots, no spaces, no currency, no thousands separators."""
    text = re.sub(r"\\(?:left|right|!|,|;|:|quad|displaystyle)(?![A-Za-z])|\\ |\\?\$|\^\\circ|\^\{\\circ\}|\\degree", "", text.strip().rstrip("."))
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", r"\1", text).replace("−", "-").replace("\\%", "%").replace("{,}", ",")
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)", lambda m: f"\\frac{{{m[1].strip('{}')}}}{{{m[2].strip('{}')}}}", text)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", text)
    if re.fullmatch(r"\s*[-+]?\d{1,3}(,\d{3})+(\.\d+)?\s*%?\s*", text):
        text = text.replace(",", "")
    return re.sub(r"\s+", "", re.sub(r"^[A-Za-z]\s*=\s*", "", text))


def _number(text: str) -> Fraction | None:
    """The rational that a plain string denotes: integer, decimal, a/b, \\frac{a}{b}, mixed number, scientific notation, percent; None if it is none."""
    scale = Fraction(1, 100) if text.endswith("%") else 1
    text = text.removesuffix("%")
    fraction = re.fullmatch(r"([-+]?)(\d{0,400})\\frac\{([-+]?)(\d{1,400})\}\{(\d{1,400})\}", text)
    if fraction and int(fraction[5]) and not (fraction[2] and fraction[3]):
        value = int(fraction[2] or 0) + Fraction(int(fraction[4]), int(fraction[5]))
        return value * (-1 if (fraction[1] + fraction[3]).count("-") % 2 else 1) * scale
    match = re.fullmatch(r"([+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))(?:e([+-]?\d{1,3}))?(?:/([+-]?\d{1,400}))?", text, re.IGNORECASE)
    if not match or (match[3] and int(match[3]) == 0):
        return None
    return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0) / int(match[3] or 1) * scale


def released_reward(response: str, golds: list[str]) -> float:
    """The released code's reward of a response (tool results included), bug for bug.

    -1 for a broken format or if the last \\boxed{ of the answer block does not close; else the best token F1, + 0.1 if it is above 0 and both closing tool
    tags occur anywhere. In {-1} and [0, 1.1].
    """
    if not _released_format(response):
        return -1.0
    block = response[response.index("<answer>") + 8:response.index("</answer>")]
    answer = last_boxed(block[block.rfind("\\boxed{"):])
    if answer is None:
        return -1.0
    f1 = token_f1(answer, golds)
    return f1 + BONUS if f1 > 0 and "</search>" in response and "</python>" in response else f1


def _released_format(text: str) -> bool:
    """think tags in pairs, at least one; one answer, in order, boxed; after every <search> and <python> the closing tag and a result, in order."""
    if text.count("<think>") != text.count("</think>") or "<think>" not in text:
        return False
    if text.count("<answer>") != 1 or text.count("</answer>") != 1 or text.index("<answer>") > text.index("</answer>"):
        return False
    for tool in ("search", "python"):
        at = text.find(f"<{tool}>")
        while at >= 0:
            for tag in (f"</{tool}>", "<result>", "</result>"):
                at = text.find(tag, at)
                if at < 0:
                    return False
            at = text.find(f"<{tool}>", at)
    block = text[text.index("<answer>"):text.index("</answer>")]
    return "\\boxed{" in block and "}" in block


def answer_of(rollout) -> str | None:
    """The answer in a rollout that kept the format, None if it broke it.

    Read from the policy's own text: <think> and </think> in pairs, at least one; exactly one <answer>..</answer> with a \\boxed{} in it; every opened tool tag
    closed; no <result> of its own; ended by itself.
    """
    text = rollout.policy_text
    if rollout.finish != "stop" or "<result>" in text or "</result>" in text or "<think>" not in text:
        return None
    if any(text.count(f"<{tag}>") != text.count(f"</{tag}>") for tag in ("think", "search", "python", "answer")) or text.count("<answer>") != 1:
        return None
    start, end = text.index("<answer>"), text.index("</answer>")
    return last_boxed(text[start + 8:end]) if start < end else None


def reward(rollout, golds: list[str], kind: str = "auto", task: str = "qa") -> float:
    """Reward of a rollout: -1 for a broken format or no end, else the score of its answer, + 0.1 if that is above 0 and both tools were executed with success.

    Args:    kind: "f1" token F1; "math" math_equal as 0 or 1; "auto" math for task "math", F1 for "qa"; "released" released_reward of the whole response.
    Returns: -1, or a number in [0, 1.1].
    Raises:  ValueError for an unknown kind.
    """
    if kind not in REWARDS:
        raise ValueError(f"kind must be one of {', '.join(REWARDS)}, got {kind!r}")
    if kind == "released":
        return released_reward(rollout.text, golds)
    answer = answer_of(rollout)
    if answer is None:
        return -1.0
    if kind == "math" or (kind == "auto" and task == "math"):
        score = float(any(math_equal(answer, gold) for gold in golds))
    else:
        score = token_f1(answer, golds)
    used = {call.name for call in rollout.calls if call.status == "ok"}
    return score + BONUS if score > 0 and used >= {"search", "python"} else score


def is_correct(rollout, question: Question) -> bool:
    """Accuracy: format kept and the answer equal to a gold, by math_equal or exact_match according to the task."""
    answer = answer_of(rollout)
    if answer is None:
        return False
    return any(math_equal(answer, gold) for gold in question.answers) if question.task == "math" else exact_match(answer, question.answers)


# ------------------------------------------------------------------------------------------------------------------------------------------- evaluation

def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate, from n samples of which c are right, that one of k is: 1 - C(n-c, k) / C(n, k). Raises ValueError unless 0 <= c <= n and 1 <= k <= n."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def evaluate(sampler, questions: list[Question], prompts: list[list[int]], samples: int, seed: int, temperature: float | None = None, batch: int = 64) -> dict:
    """Sample every question `samples` times and grade: {"numbers": ..., "rows": one per question with its samples}.

    numbers: avg@k (mean accuracy), pass@k, f1, reward, format_errors, truncated, calls per rollout, each a mean over questions and samples.
    """
    rows = []
    for start in range(0, len(questions), batch):
        chunk = questions[start:start + batch]
        seeds = [mix_seed(seed, start + i) for i in range(len(chunk))]
        rollouts = sample_initial(sampler, prompts[start:start + batch], samples, seeds, temperature)
        rows += [graded(q, rollouts[i * samples:(i + 1) * samples]) for i, q in enumerate(chunk)]
    mean = lambda values: sum(values) / len(values)
    flat = lambda name: [v for row in rows for v in row[name]]
    numbers = {
        f"avg@{samples}": mean(flat("correct")), f"pass@{samples}": mean([pass_at_k(samples, sum(row["correct"]), samples) for row in rows]),
        "f1": mean(flat("f1")), "reward": mean(flat("reward")), "format_errors": mean([x < 0 for x in flat("reward")]),
        "truncated": mean([f in ("length", "calls") for f in flat("finish")]), "calls": mean([len(c) for c in flat("calls")])}
    return {"numbers": numbers, "questions": len(questions), "samples": samples, "temperature": sampler.temperature if temperature is None else temperature,
            "seed": seed, "rows": rows}


def graded(q: Question, rollouts: list) -> dict:
    """One question's samples as an evaluation file holds them."""
    return {"id": q.id, "answers": q.answers, "task": q.task, "correct": [is_correct(r, q) for r in rollouts],
            "f1": [token_f1(answer_of(r) or "", q.answers) for r in rollouts], "reward": [reward(r, q.answers, "auto", q.task) for r in rollouts],
            "finish": [r.finish for r in rollouts], "calls": [[(c.name, c.status) for c in r.calls] for r in rollouts], "text": [r.text for r in rollouts]}


@dataclass(frozen=True)
class Evaluation:
    """The settings of an evaluation; the flags of `python eval.py`. Defaults are the paper's where it states them."""
    model: str = option("", "Hugging Face folder or name, or a run's folder: its newest checkpoint")
    data: str = option("", "questions, .jsonl or .parquet")
    out: str = option("", "result file; empty: eval_DATA.json in the model's folder if that is local, else here")
    samples: int = option(1, "k, samples per question (paper 5)", 1)
    questions: int = option(0, "the first so many questions; 0: all", 0)
    skip_bad: bool = option(False, "leave out rows that are not JSON or have no question or answer, instead of refusing the file")
    task: str = option("auto", "how answers are graded", choices=("auto", "math", "qa"))
    temperature: float = option(0.6, "0 is greedy (paper 0.6)", 0)
    max_tokens: int = option(4096, "response budget with tool results, tokens", 1)
    max_calls: int = option(15, "tool calls per question (paper: 5 python and 10 search)", 0)
    max_result_tokens: int = option(2048, "longest tool result, tokens", 8)
    tools: str = option("python,search", "comma-separated: python, search")
    corpus: str = option("", "what search searches: .jsonl, a .json search cache or a folder")
    topk: int = option(3, "documents per search", 1)
    tool_timeout: float = option(5.0, "seconds per python call", 0.01)
    sandbox: str = option("best-effort", "what confines model code", choices=("require", "best-effort", "off"))
    rows: int = option(32, "rows decoded at once", 1)
    chunk: int = option(64, "tokens per row and call when prompts and results are read", 1)
    seed: int = option(0, "of the sampling", 0)
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    device: str = option("cpu", "cpu or cuda")

    def __post_init__(self):
        check_options(self)
        if not self.model or not self.data:
            raise ValueError("--model and --data are needed")


def settings_of_run(model: str) -> dict:
    """Tools and limits that a training run used, if `model` is a run's folder: an evaluation takes them over unless flags say otherwise."""
    path = Path(model) / "config.json"
    config = json.loads(path.read_text()) if model and (Path(model) / "latest").is_file() and path.is_file() else {}
    shared = ("tools", "corpus", "topk", "tool_timeout", "sandbox", "max_tokens", "max_calls", "max_result_tokens", "chunk")
    return {name: config[name] for name in shared if name in config}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Evaluate a model with tools on one file of questions; writes one self-describing JSON file.", allow_abbrev=False)
    add_flags(parser, Evaluation)
    flags = vars(parser.parse_args(argv))
    run = Evaluation(**(settings_of_run(flags.get("model", "")) | flags))
    transformers.utils.logging.disable_progress_bar()
    marker = Path(run.model) / "latest"
    model = str(marker.parent / marker.read_text().strip()) if marker.is_file() else run.model
    folder = Path(run.model) if Path(run.model).is_dir() else Path()
    out = Path(run.out or folder / f"eval_{Path(run.data).stem}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    questions = load_questions(run.data, run.skip_bad, run.task)[:run.questions or None]
    tools = open_tools(run.tools, run.corpus, run.topk, run.tool_timeout, run.sandbox)
    policy = Policy.load(model, run.dtype, run.device)
    prompts = [encode_prompt(policy.tokenizer, q.messages) for q in questions]
    sampler = Sampler(policy, tools, run.rows, max(map(len, prompts)), run.max_tokens, run.max_calls, run.max_result_tokens, run.temperature, run.chunk)
    started = time.perf_counter()
    result = evaluate(sampler, questions, prompts, run.samples, run.seed)
    result |= {"settings": dataclasses.asdict(run), "checkpoint": model, "versions": versions(), "seconds": time.perf_counter() - started}
    out.write_text(json.dumps(result, ensure_ascii=False))
    print("\n".join(f"{name:16s} {value:.4f}" for name, value in result["numbers"].items()))
    print(f"{len(questions)} questions x {run.samples} samples, temperature {run.temperature}, {result['seconds']:.0f} s -> {out}")
    for tool in tools.values():
        tool.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"eval.py: {problem}")
