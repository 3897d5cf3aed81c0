"""Evaluate a model with tools on files of questions; one self-describing JSON file for each.

1. load_file   the questions of a file, graded as its benchmark is
2. sampling    tools and prompts, then the model or the server that has it
3. evaluate    every question sampled and graded (support/scores.py, rewards.py)
4. run_file    what is left of a file; a kill costs one batch (support/results.py)
5. table       avg@k, pass@k, F1 with standard errors

python eval.py --model runs/x --data bench.jsonl --samples 5
python eval.py --model runs/x --data bench.jsonl --steps 0 50    two steps, compared
python eval.py --benchmarks, --overlap, --regrade, --compare        need no model
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import transformers

from config import AgentConfig, agent_rules, is_blank, today
from policy import Policy
from rewards import released_reward, reward
from sampling import Sampler
from support.benchmarks import benchmark_of, benchmark_table, name_of
from support.compare import compare, regrade_all
from support.files import newest_in, write_aside
from support.inputs import probed_tools, prompts_of, read_questions
from support.judge import Judge, judge_rows
from support.math_equal import last_boxed, math_equal
from support.models import load_tokenizer, pick_device, positions_of
from support.native_calls import protocol_of
from support.plugins import open_reward
from support.questions import Question, load_questions, overlap_lines
from support.result_page import result_page
from support.results import Job, date_of, open_job, weights_of, write_result
from support.runfiles import complete, end_now, sha256, shown_settings, step_folder
from support.sampling_params import SamplingParams, beyond_positions, budgets_of, short_results
from support.scores import (
    Sample,
    broken_format,
    evaluate,
    faults_of,
    numbers_of,
    pass_at_k,
    table,
)
from support.seeds import mix_seed
from support.served import Served
from support.settings import fixed, free, new_names, parser_for, problems, typed
from support.words import exact_match, normalize_answer, token_f1

# Other programs import the graders from here.
__all__ = ["normalize_answer", "exact_match", "token_f1", "math_equal", "last_boxed"]
__all__ += ["released_reward", "reward", "load_questions", "pass_at_k", "evaluate", "main"]


@dataclass(frozen=True)
class EvalConfig(AgentConfig):
    """The evaluation. Brackets: the paper's value."""

    model: str = free("", "Hugging Face folder or name, or a run's folder: its newest checkpoint")
    data: tuple[str, ...] = free((), "files of questions, .jsonl or .parquet")
    steps: tuple[int, ...] = free((), "two steps of the run --model: both evaluated and compared")
    served: str = fixed(
        "", "OpenAI-compatible API of the model, http://host:8000/v1; --model lends its tokenizer"
    )
    served_name: str = fixed("", "the model's name there; empty: --model")
    out: str = free(
        "", "folder of the files eval_DATA_MODEL.json; empty: the model's if it is local, else here"
    )
    samples: int = fixed(1, "k, samples per question (paper 5)", 1)
    questions: int = fixed(0, "the first so many questions of each file; 0: all", 0)
    skip_bad: bool = fixed(False, "leave out and name bad rows instead of refusing the file")
    dedupe: bool = fixed(False, "leave out questions that were asked before in the same file")
    task: Literal["auto", "math", "qa"] = fixed(
        "auto", "grading; auto: by the benchmark, the row or its answer"
    )
    judge: str = free(
        "", "OpenAI-compatible API of a model that judges answers too; key: OPENAI_API_KEY"
    )
    judge_model: str = free("", "name of the judging model (paper: Qwen2.5-72B-Instruct)")
    temperature: float = fixed(0.6, "0 is greedy (paper 0.6)", 0)
    top_p: float = fixed(
        0.95, "draw from the likeliest tokens with this probability; 1: all (paper 0.95)", 1e-6
    )
    top_k: int = fixed(20, "draw from so many likeliest tokens; 0: all (paper 20)", 0)
    max_tokens: int = fixed(4096, "response budget with tool results, tokens (paper 4096)", 1)
    repetition_penalty: float = fixed(
        1.0, "on ids seen before, as Hugging Face's; 1: none (paper 1.1)", 1e-6
    )
    max_calls: int = fixed(15, "tool calls per question, all tools together (paper 15)", 0)
    max_tool_calls: str = fixed(
        "",
        "of each tool, python=5,search=10 (paper); without --max_calls all may be made; empty: any",
    )
    max_result_tokens: int = fixed(2048, "longest tool result, tokens", 8)
    decode_rows: int = free(32, "rows decoded at once: memory and speed", 1, old="rows")
    html: str = free("", "file for the table as a web page, made anew")
    seed: int = fixed(0, "of the sampling", 0)
    dtype: Literal["float32", "bfloat16"] = fixed("float32", "of the weights")

    def __post_init__(self):
        found = problems(EvalConfig, vars(self), rules)
        if found:
            raise ValueError("\n".join(found))


def rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules between settings: (their names, what is wrong)."""
    yield from agent_rules(c)
    if not c.model or not c.data or not all(c.data):
        yield ("model", "data"), "--model and --data are needed"
    if bool(c.judge) != bool(c.judge_model):
        yield ("judge", "judge_model"), "--judge and --judge_model go together"
    yield from step_rules(c)
    try:
        budgets_of(c.max_tool_calls)
    except ValueError as problem:
        yield ("max_tool_calls",), str(problem)
    if c.top_p > 1:
        yield ("top_p",), f"--top_p must be at most 1, got {c.top_p}"
    names = [name_of(path) for path in c.data]
    for name in sorted({name for name in names if names.count(name) > 1}):
        paths = " and ".join(path for path in c.data if name_of(path) == name)
        yield ("data",), f"--data: {paths} would write one result file: rename one"


def step_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules of --steps: (its name, what is wrong)."""
    if not c.steps:
        return
    if len(c.steps) != 2 or c.steps[0] == c.steps[1]:
        yield ("steps",), f"--steps takes two steps to compare, got {c.steps}"
    if c.served:
        yield ("steps",), "--steps needs the weights here, without --served"
    for step in c.steps:
        if not complete(step_folder(c.model, step)):
            yield ("steps",), f"--steps {step}: {c.model} holds no checkpoint of that step"


def settings_of_run(model: str) -> dict:
    """Tools and limits of a training run, if `model` is its folder.

    An evaluation takes them over unless flags say otherwise.
    """
    path = Path(model) / "config.json"
    if not (model and (Path(model) / "latest").is_file() and path.is_file()):
        if model and (Path(model).parent / "latest").is_file():
            print(f"--model {model}: weights alone, without the run's tools and limits")
        return {}
    shared = {f.name for f in dataclasses.fields(AgentConfig)} - {"decode_rows", "device"}
    shared |= {"max_tokens", "max_calls", "max_result_tokens"}
    values = new_names(AgentConfig, json.loads(path.read_text()))
    file = str(values.get("reward_fn", "")).rpartition(":")[0]
    if Path(file).is_file() and sha256(file) != values.get("data_sha256", {}).get("reward_fn"):
        print(f"--reward_fn: {file} has changed since the run {model} began")
    return {name: value for name, value in values.items() if name in shared}


def load_file(run: EvalConfig, path: str) -> list[Question]:
    """The questions of a file, graded as its benchmark is unless --task says otherwise."""
    known = benchmark_of(path)
    task = known.task if known and run.task == "auto" else run.task
    questions = read_questions(run, path, task=task, dedupe=run.dedupe, first=run.questions)
    if known and known.metric == "judge" and not run.judge:
        print(
            f"{path}: the paper has a model judge these answers (--judge); without one, avg@k is "
            "exact match or math_equal"
        )
    return questions


def sampling(
    run: EvalConfig, model: str, jobs: list[Job], opened: contextlib.ExitStack
) -> tuple[Sample, dict[str, list[list[int]]]]:
    """The function that samples, and path -> prompts; tools and model (or server) are ready.

    What does not fit the model is refused before a weight is read. opened: closes the tools.
    """
    tools = probed_tools(run, run.tools)
    for tool in tools.values():
        opened.callback(tool.close)
    for name in budgets_of(run.max_tool_calls).keys() - tools.keys():
        raise ValueError(f"--max_tool_calls: {name!r} is no tool here, only {', '.join(tools)}")
    device = "" if run.served else pick_device(run.device)
    tokenizer, protocol, prompts = load_tokenizer(model), protocol_of(run), {}
    for job in jobs:
        dated = dataclasses.replace(run, date=job.settings["date"])
        prompts[job.path] = prompts_of(dated, job.path, job.questions, tokenizer)
    if short := short_results(run, protocol, tokenizer):
        raise ValueError(short)
    if run.served:
        return Served(run.served, run.served_name or run.model, tokenizer, tools, run), prompts
    longest = max(len(prompt) for asked in prompts.values() for prompt in asked)
    if beyond := beyond_positions(longest, run.max_tokens, positions_of(model)):
        raise ValueError(beyond)
    policy = Policy.load(model, run.dtype, device)
    return Sampler(policy, tools, SamplingParams.of(run), protocol).initial, prompts


def load_files(run: EvalConfig) -> dict[str, list[Question]]:
    """The questions of every file: path -> questions."""
    # refused before anything is read
    open_reward(run.reward_fn), protocol_of(run)
    return {path: load_file(run, path) for path in run.data}


def run_files(run: EvalConfig, data: dict[str, list[Question]]) -> dict[str, dict]:
    """Evaluate the model on every file: name -> result.

    What can be wrong without a model is checked before one is loaded, if one is needed.
    """
    model = newest_in(run.model)
    folder = result_file(run, "", "").parent
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(model)
    with contextlib.ExitStack() as opened:
        jobs = []
        for path, questions in data.items():
            out = result_file(run, name_of(path), Path(model).name)
            # an evaluation that goes on after midnight asks the same
            dated = dataclasses.replace(run, date=run.date or date_of(out) or today())
            settings = settings_of(dated, path, model, weights)
            jobs.append(open_job(path, out, questions, settings, opened))
        judge = Judge(run.judge, run.judge_model, folder / "judge.jsonl") if run.judge else None
        sample, prompts = None, {}
        if any(job.left for job in jobs):
            sample, prompts = sampling(run, model, jobs, opened)
        return {
            name_of(job.path): run_file(run, job, prompts.get(job.path, []), sample, judge)
            for job in jobs
        }


def run_steps(run: EvalConfig) -> tuple[dict[str, dict], list[str]]:
    """Evaluate two steps of a run: results, and the paired difference for each file."""
    results, files, data = {}, {}, load_files(run)
    for step in run.steps:
        folder = step_folder(run.model, step)
        of_step = dataclasses.replace(run, model=str(folder), out=run.out or run.model, steps=())
        for name, result in run_files(of_step, data).items():
            results[f"{name}, step {step}"] = result
            files.setdefault(name, []).append(str(result_file(of_step, name, folder.name)))
    return results, [compare(*pair) for pair in files.values()]


def result_file(run: EvalConfig, name: str, model: str) -> Path:
    """The result file of a data set. model: the last part of its folder's or the Hub's name."""
    folder = Path(run.out or (run.model if Path(run.model).is_dir() else "."))
    return folder / f"eval_{name}_{model}.json"


def settings_of(run: EvalConfig, path: str, model: str, weights: str) -> dict:
    """What decides the samples of a file: it may not change in an evaluation that goes on."""
    unfixed = {"decode_rows", "device", "judge", "judge_model", "out", "data", "model", "steps"}
    unfixed.add("html")
    settings = {name: value for name, value in shown_settings(run).items() if name not in unfixed}
    own = {"reward_fn_sha256": sha256(file)} if (file := run.reward_fn.rpartition(":")[0]) else {}
    sources = {"checkpoint": model, "weights": weights, "data_sha256": sha256(path)}
    return settings | sources | own


def run_file(
    run: EvalConfig,
    job: Job,
    prompts: list[list[int]],
    sample: Sample | None,
    judge: Judge | None,
) -> dict:
    """Sample what is left of a file and let the judge judge; write and return the result.

    All other fields of a finished file stay.
    """
    result = job.done
    job.last = time.perf_counter()
    if job.partial:
        done = len(job.done["rows"])
        seeds = [mix_seed(run.seed, place) for place in range(done, len(job.questions))]
        left = job.questions[done:], prompts[done:]
        for row in evaluate(sample, *left, run.samples, seeds, open_reward(run.reward_fn)):
            refuse_broken(job, row)
            job.keep(row)
        result = job.result(run.samples, run.seed)
        for line in broken_format(faults_of(job.done["rows"][done:])):
            print(line)
    if judge:
        judge_rows(judge, result["rows"])
        result |= {"numbers": numbers_of(result["rows"]), "judge": judge.model}
    if job.partial or judge:
        write_result(job.out, result)
    if job.partial:
        Path(job.partial.name).unlink(missing_ok=True)
    size = f"{len(job.questions)} questions x {run.samples} samples"
    told = f"{size}, temperature {run.temperature}, {result['seconds']:.0f} s"
    print(f"{told} -> {job.out}", flush=True)
    return result


def refuse_broken(job: Job, row: dict) -> None:
    """ValueError if the reward of one's own has failed at all samples of the first question."""
    faults = [sample.get("reward_fn", {}).get("fault") for sample in row["samples"]]
    if not job.done["rows"] and all(faults):
        raise ValueError(f"--reward_fn failed at the first question of {job.path}: {faults[0]}")


def main(argv: list[str]) -> None:
    """The command line."""
    flags = read_flags(argv)
    if "benchmarks" in flags:
        print(benchmark_table())
    elif "overlap" in flags:
        print(overlap_lines(flags["overlap"]))
    elif "compare" in flags:
        print(compare(*flags["compare"]))
    elif "regrade" in flags:
        if "reward_fn" in flags:
            raise ValueError("--regrade takes no --reward_fn: a sample is no whole rollout")
        how = {name: flags[name] for name in ("judge", "judge_model", "task") if name in flags}
        show(regrade_all(flags["regrade"], **how), [], flags.get("html", ""))
    else:
        transformers.utils.logging.disable_progress_bar()
        run = EvalConfig(**(settings_of_run(flags.get("model", "")) | whole_budget(flags)))
        results, differences = (
            run_steps(run) if run.steps else (run_files(run, load_files(run)), [])
        )
        show(results, differences, run.html)


def whole_budget(flags: dict) -> dict:
    """The flags; where only the budgets of single tools are given, all of them may be used up."""
    try:
        budgets = budgets_of(flags.get("max_tool_calls", ""))
    # EvalConfig says what is wrong
    except ValueError:
        return flags
    return ({"max_calls": sum(budgets.values())} if budgets else {}) | flags


def show(results: dict[str, dict], differences: list[str], html: str) -> None:
    """Print the table and what two steps differ in; the same as a web page, if asked for."""
    text = table(results)
    print("\n\n".join([text, *differences]))
    if html:
        write_aside(Path(html), result_page(text, differences))


def read_flags(argv: list[str]) -> dict:
    """The flags that were given, by name."""
    about = "Evaluate a model with tools on files of questions: one JSON file for each."
    parser = parser_for(EvalConfig, description=about)
    parser.argument_default = argparse.SUPPRESS
    other = parser.add_argument_group("without a model").add_mutually_exclusive_group()
    benchmarks = "the paper's benchmarks: format, grader, metric, where to get them"
    overlap = "questions that the first file shares with each of the others"
    regrade = "result files: grade their samples anew, with --task or --judge"
    difference = "two result files: paired bootstrap of the difference"
    other.add_argument("--benchmarks", action="store_true", help=benchmarks)
    other.add_argument("--overlap", nargs="+", metavar="FILE", help=overlap)
    other.add_argument("--regrade", nargs="+", metavar="FILE", help=regrade)
    other.add_argument("--compare", nargs=2, metavar="FILE", help=difference)
    flags = typed(EvalConfig, parser.parse_args(argv))
    if is_blank(flags, "out"):
        raise ValueError("--out is empty: name a folder, or leave it out")
    return {n: tuple(value) if isinstance(value, list) else value for n, value in flags.items()}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"eval.py: {problem}")
    except KeyboardInterrupt:
        end_now("eval.py: interrupted; the same command goes on from the last batch of questions")
