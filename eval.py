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

from appo import Policy, Sampler, encode_prompt, mix_seed, sample_initial
from tools import open_tools

SYSTEM_PROMPT = ("Answer the question by reasoning in steps. Two tools are at hand: a search engine over an encyclopedia and a Python interpreter. "
                 "Reason inside <think> and </think>. To search, write <search> your query </search>; to compute, write <python> your code </python>; what the tool returns "
                 "follows between <result> and </result>. Reason and use tools as often as needed, for instance: <think> I need a fact. </think> <search> a query </search> "
                 "<result> what was found </result> <think> Now compute. </think> <python> print(6 * 7) </python> <result> 42 </result> <think> Done. </think> "
                 "<answer> The answer is \\[ \\boxed{42} \\] </answer>. The last thing to write is <answer> ... </answer> with the exact final answer in \\boxed{}.")
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

def load_questions(path: str, skip_bad: bool = False) -> list[Question]:
    """Read questions from a .jsonl or .parquet file.

    A row is one of: verl/ARPO ({"prompt": [messages], "reward_model": {"ground_truth": ...}, ...}), ARPO evaluation ("question",
    "Question" or "problem" with "answer"), TRL ("prompt" as messages or text, with "answer" or "ground_truth"). An answer is a string,
    a number or a list of them; "... #### 18" (GSM8K) counts as "18". The backspace that stands for the \\b of \\boxed in the authors'
    files is repaired; meta["repaired"] says where. The task is the row's "task" or "ability" if it says math or qa, else math if every
    answer holds a digit or a backslash and no word.

    Args:   skip_bad: leave out rows without a question or an answer and print which, instead of raising.
    Raises: FileNotFoundError; ValueError with a line per bad row (file, row, what is missing), or for a .parquet file without pyarrow.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"data file {path} does not exist")
    questions, bad = [], []
    for number, row in _rows(file):
        try:
            questions.append(_question(row, f"{path}, row {number}", number))
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
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise ValueError(f"{file} is a parquet file: run `pip install pyarrow`, or convert it to .jsonl") from None
        yield from enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1)
    else:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line


def _question(row: dict | str, where: str, number: int) -> Question:
    """One row, an object or a line of JSON, as a Question; ValueError if it is none."""
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except ValueError as problem:
            raise ValueError(f"{where} is not JSON: {problem}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not an object with named fields")
    asked = next((row[key] for key in ("prompt", "question", "Question", "problem") if row.get(key)), None)
    if not asked:
        raise ValueError(f'{where} has no question: one of "prompt", "question", "Question", "problem"')
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": asked}] if isinstance(asked, str) else [{k: m[k] for k in ("role", "content")} for m in asked]
    mended = [{**m, "content": m["content"].replace("\x08oxed", "\\boxed")} for m in messages]
    answers = _answers(next((a for a in ((row.get("reward_model") or {}).get("ground_truth"), row.get("answer"), row.get("answers"), row.get("ground_truth"), row.get("golden_answers")) if a is not None), None))
    if not answers:
        raise ValueError(f'{where} has no answer: one of "answer", "answers", "ground_truth", "reward_model.ground_truth", not empty')
    named = str(row.get("task") or row.get("ability") or "")
    task = named if named in ("math", "qa") else "math" if all(re.search(r"[\d\\]", a) and not re.search(r"(?<!\\)\b[A-Za-z]{3,}", a) for a in answers) else "qa"
    meta = {k: row[k] for k in ("level", "Level", "data_source", "type") if row.get(k) is not None} | {"row": number, "repaired": mended != messages}
    return Question(str(row.get("id", row.get("task_id", number))), mended, answers, task, meta)


def _answers(value) -> list[str]:
    """Any of the field's answer forms as a list of non-empty strings."""
    if isinstance(value, dict):
        value = value.get("target")
    if isinstance(value, (list, tuple)):
        return [a for v in value for a in _answers(v)]
    if value is None or isinstance(value, bool):
        return []
    text = str(value).split("####")[-1].strip()
    return [text] if text else []


# ---------------------------------------------------------------------------------------------------------------------------------------------- grading

def last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{...}, None if there is none."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for i in range(start + 6, len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[start + 7:i]
        start = text.rfind("\\boxed{", 0, start)
    return None


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
    """Do two short mathematical answers mean the same? Numbers, fractions and percent exactly, as rationals; else the strings, freed of LaTeX's layout. Evaluates nothing."""
    a, b = _plain_math(pred), _plain_math(gold)
    if a == b:
        return bool(a)
    x, y = _number(a), _number(b)
    return x is not None and x == y


def _plain_math(text: str) -> str:
    """LaTeX without layout: one spelling for fractions, no spaces, no thousands separators."""
    text = re.sub(r"\\(?:left|right|!|,|;|:|quad|displaystyle)(?![A-Za-z])|\\ |\$|\^\\circ|\^\{\\circ\}|\\degree", "", text.strip().rstrip("."))
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", r"\1", text).replace("−", "-").replace("\\%", "%")
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(\d)\s*,\s*(?=\d{3}(?!\d))(?![^()\[\]]*[)\]])", r"\1", text)
    return re.sub(r"\s+", "", re.sub(r"^[A-Za-z]\s*=\s*", "", text))


def _number(text: str) -> Fraction | None:
    """The rational that a plain string denotes: integer, decimal, a/b, \\frac{a}{b}, scientific notation, percent; None if it is none."""
    scale = Fraction(1, 100) if text.endswith("%") else 1
    text = re.sub(r"^(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}$", r"\1\2/\3", text.rstrip("%"))
    match = re.fullmatch(r"([+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))(?:e([+-]?\d{1,3}))?(?:/([+-]?\d{1,400}))?", text, re.IGNORECASE)
    if not match or (match[3] and int(match[3]) == 0):
        return None
    return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0) / int(match[3] or 1) * scale


def released_reward(response: str, golds: list[str]) -> float:
    """The released code's reward of a response (tool results included), bug for bug: -1 for a broken format, else the best token F1, + 0.1 if it is above 0 and both closing tool tags occur anywhere."""
    if not _released_format(response):
        return -1.0
    block = response[response.index("<answer>") + 8:response.index("</answer>")]
    answer = last_boxed(block)
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

    Read from the policy's own text: <think> and </think> in pairs, at least one; exactly one <answer>..</answer> with a \\boxed{} in it; every opened tool tag closed; no <result> of its own;
    ended by itself.
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
        for i, q in enumerate(chunk):
            mine = rollouts[i * samples:(i + 1) * samples]
            rows.append({"id": q.id, "answers": q.answers, "task": q.task, "correct": [is_correct(r, q) for r in mine], "f1": [token_f1(answer_of(r) or "", q.answers) for r in mine],
                         "reward": [reward(r, q.answers, "auto", q.task) for r in mine], "finish": [r.finish for r in mine], "calls": [[(c.name, c.status) for c in r.calls] for r in mine],
                         "text": [r.text for r in mine]})
    mean = lambda values: sum(values) / len(values)
    flat = lambda name: [v for row in rows for v in row[name]]
    numbers = {f"avg@{samples}": mean(flat("correct")), f"pass@{samples}": mean([pass_at_k(samples, sum(row["correct"]), samples) for row in rows]), "f1": mean(flat("f1")),
               "reward": mean(flat("reward")), "format_errors": mean([x < 0 for x in flat("reward")]), "truncated": mean([f in ("length", "calls") for f in flat("finish")]),
               "calls": mean([len(c) for c in flat("calls")])}
    return {"numbers": numbers, "questions": len(questions), "samples": samples, "temperature": sampler.temperature if temperature is None else temperature, "seed": seed, "rows": rows}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Evaluate a model with tools on one file of questions; writes one self-describing JSON file.", allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face folder or name, or a run's folder: its newest checkpoint")
    add("--data", required=True, help="questions, .jsonl or .parquet")
    add("--out", default="", help="result file (default: eval_DATA.json in the model's folder if that is local, else here)")
    add("--samples", type=int, default=1, help="k, samples per question, >= 1 (default 1; paper 5)")
    add("--skip_bad", action="store_true", help="leave out rows without a question or an answer instead of refusing the file")
    add("--questions", type=int, default=0, help="the first so many questions; 0: all (default)")
    add("--temperature", type=float, default=0.6, help=">= 0, 0 is greedy (default 0.6, the paper's)")
    add("--max_tokens", type=int, default=4096, help="response budget with tool results, tokens (default 4096)")
    add("--max_calls", type=int, default=15, help="tool calls per question (default 15: the paper's 5 python and 10 search)")
    add("--max_result_tokens", type=int, default=2048, help="longest tool result, tokens (default 2048)")
    add("--tools", default="python,search", help="comma-separated (default python,search)")
    add("--corpus", default="", help="what search searches: .jsonl, a .json search cache or a folder")
    add("--topk", type=int, default=3, help="documents per search (default 3)")
    add("--tool_timeout", type=float, default=5.0, help="seconds per python call (default 5)")
    add("--sandbox", default="best-effort", help="require, best-effort or off (default best-effort)")
    add("--rows", type=int, default=32, help="rows decoded at once (default 32)")
    add("--chunk", type=int, default=64, help="tokens per row and call when prompts and results are read (default 64)")
    add("--seed", type=int, default=0, help="integer >= 0 (default 0)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights (default float32)")
    add("--device", default="cpu", help="cpu or cuda (default cpu)")
    args = parser.parse_args(argv)
    if args.samples < 1 or args.temperature < 0:
        raise ValueError(f"--samples must be >= 1 and --temperature >= 0, got {args.samples} and {args.temperature}")
    marker = Path(args.model) / "latest"
    model = str(marker.parent / marker.read_text().strip()) if marker.is_file() else args.model
    questions = load_questions(args.data, args.skip_bad)[:args.questions or None]
    tools = open_tools(args.tools, args.corpus, args.topk, args.tool_timeout, args.sandbox)
    policy = Policy.load(model, args.dtype, args.device)
    prompts = [encode_prompt(policy.tokenizer, q.messages) for q in questions]
    sampler = Sampler(policy, tools, args.rows, max(map(len, prompts)), args.max_tokens, args.max_calls, args.max_result_tokens, args.temperature, args.chunk)
    started = time.perf_counter()
    result = evaluate(sampler, questions, prompts, args.samples, args.seed)
    result |= {"settings": vars(args), "seconds": time.perf_counter() - started}
    out = Path(args.out or (Path(model) if Path(model).is_dir() else Path()) / f"eval_{Path(args.data).stem}.json")
    out.write_text(json.dumps(result, ensure_ascii=False))
    print("\n".join(f"{name:16s} {value:.4f}" for name, value in result["numbers"].items()))
    print(f"{len(questions)} questions x {args.samples} samples, temperature {args.temperature}, {result['seconds']:.0f} s -> {out}")
    for tool in tools.values():
        tool.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, FileNotFoundError) as problem:
        sys.exit(f"eval.py: {problem}")
