"""Tool turns: results join live rows as they come, against synchronous rounds.

A round waits for its slowest tool and computes prompt and response anew. Seeds, tools and delays
are the same for both.
"""

import itertools
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from extras.bench import models
from extras.bench.measure import figure, in_turn, ratio, repeats
from policy import Policy
from protocol import closed_tag, encode_prompt, encode_result, parse_call
from rollout import Call, Rollout
from sampling import Sampler
from support.questions import load_questions
from support.seeds import mix_seed
from tools import ToolResult

# milliseconds: long-tailed, as of a search server; quick, a few times those of tools.py
SLOW = (20, 20, 30, 30, 30, 40, 40, 50, 50, 60, 80, 100, 130, 180, 270, 400)
QUICK = (5, 5, 6, 6, 7, 8, 9, 10, 12, 14, 17, 20, 25, 31, 40, 50)


@dataclass
class DelayedTool:
    """Answers every call with the same text, after a delay that the call's argument decides."""

    # in ms
    delays: tuple[int, ...]

    def run(self, argument: str) -> ToolResult:
        """Wait, and answer."""
        delay = self.delays[zlib.crc32(argument.encode()) % len(self.delays)] / 1000
        time.sleep(delay)
        return ToolResult("ok", "The height of it is 42.", delay)


@dataclass
class Given:
    """What both ways of sampling are given. budget: tokens of a response."""

    policy: Policy
    prompts: list[list[int]]
    delays: tuple[int, ...]
    # rollouts per prompt
    n: int = 4
    # and so three turns
    calls: int = 2
    budget: int = 160

    def sampler(self, max_calls: int) -> Sampler:
        """A sampler with a row for every rollout."""
        tools = dict.fromkeys(("python", "search"), DelayedTool(self.delays))
        rows = len(self.prompts) * self.n
        return models.make_sampler(self.policy, rows, self.budget, tools, max_calls=max_calls)

    def unique(self, rollouts: list[Rollout]) -> int:
        """Tokens of the trees: each prompt once."""
        return sum(map(len, self.prompts)) + sum(len(r.ids) for r in rollouts)


@dataclass
class Sampled:
    """What a way of sampling gives: rollouts, and how many tokens it computed for them."""

    rollouts: list[Rollout]
    computed: int


def turns(args) -> dict:
    """Rollouts of three turns, as results come and in rounds, with slow tools and quick ones."""
    policy = Policy.load(str(models.agent_folder(args)))
    questions = load_questions(str(models.world_folder(args) / "train.jsonl"))
    some = questions[: 2 if args.light else 16]
    prompts = [encode_prompt(policy.tokenizer, q.messages) for q in some]
    figures = {}
    for delays in (SLOW, QUICK):
        title = f"turns: 0.3 M agent, {len(prompts)} x {Given.n} rollouts of three turns, "
        title += f"tools of {min(delays)} to {max(delays)} ms"
        figures |= with_tools(Given(policy, prompts, delays), title, repeats(args))
    return figures


def with_tools(given: Given, title: str, times: int) -> dict:
    """The figures of both ways, run in turn."""
    live, rounds, last = given.sampler(given.calls), given.sampler(0), {}

    def run(how: str, sample) -> None:
        last[how] = sample()

    # weights are packed once for both: rounds would pack in each of them
    with given.policy.unsharded():
        pairs = in_turn(
            partial(run, "rounds", partial(in_rounds, given, rounds)),
            partial(run, "live", partial(as_they_come, given, live)),
            times=times,
        )
    running = live.count["sampled"] / live.count["row_calls"]
    return turn_figures(given, title, last["live"], last["rounds"], pairs) | {
        f"{title}, occupancy, live": figure([running], "share")
    }


def turn_figures(
    given: Given, title: str, live: Sampled, rounds: Sampled, pairs: list[tuple[float, ...]]
) -> dict:
    """pairs: (seconds in rounds, live)."""
    same = [a.ids == b.ids for a, b in zip(live.rollouts, rounds.rollouts)]
    waits = [[call.seconds for call in r.calls] for r in live.rollouts]
    slowest_rollout = max(*map(sum, waits), 1e-9)
    slowest_calls = sum(map(max, itertools.zip_longest(*waits, fillvalue=0.0)))
    figures = {
        f"{title}, seconds in rounds / live": ratio(pairs),
        f"{title}, calls per rollout": figure([len(r.calls) for r in live.rollouts], ""),
        f"{title}, the same by both": figure(same, "share"),
        f"{title}, rounds / live if only tools took time": figure(
            [slowest_calls / slowest_rollout], "x"
        ),
        f"{title}, share of live seconds that the slowest rollout waits": figure(
            [slowest_rollout / seconds for _, seconds in pairs], "share"
        ),
    }
    for how, sampled in (("live", live), ("rounds", rounds)):
        per_unique = sampled.computed / given.unique(sampled.rollouts)
        figures[f"{title}, computed / unique, {how}"] = figure([per_unique], "")
    return figures


def as_they_come(given: Given, sampler: Sampler) -> Sampled:
    """Our loop."""
    sampler.count.clear()
    rollouts = sampler.initial(given.prompts, given.n, range(len(given.prompts)))
    return Sampled(rollouts, sampler.count["computed"])


def in_rounds(given: Given, sampler: Sampler) -> Sampled:
    """Synchronous rounds.

    1. all rollouts sample until they call: a sampler that allows no call ends them there
    2. all calls run at once, and the slowest is waited for
    3. the results are appended, and prompt and response so far are computed anew
    """
    rollouts = [
        Rollout(prompt, mix_seed(p, k), p)
        for p, prompt in enumerate(given.prompts)
        for k in range(given.n)
    ]
    sampler.count.clear()
    going_on, computed = rollouts, 0
    with ThreadPoolExecutor(len(rollouts)) as pool:
        while going_on:
            for r in going_on:
                r.fork_at = len(r.ids)
            computed += sum(len(r.prompt) + len(r.ids) for r in going_on)
            sampler.run(models.computed_anew(given.policy, going_on))
            called = [r for r in going_on if r.finish == "calls" and len(r.calls) < given.calls]
            calls = [call_of(given.policy, r) for r in called]
            results = list(pool.map(partial(answer, sampler.tools), calls))
            for r, call, result in zip(called, calls, results):
                add_result(given, r, call, result)
            going_on = [r for r in called if len(r.ids) < given.budget]
    return Sampled(rollouts, computed + sampler.count["computed"])


def call_of(policy: Policy, r: Rollout) -> tuple[str, str | None]:
    """Name and argument of the call that ends a turn; no argument if the tag was never opened."""
    turn = r.ids[r.calls[-1].end if r.calls else 0 :]
    tag = closed_tag([policy.text[i] for i in turn])
    return parse_call(policy.decode(turn)) or (tag[2:-1], None)


def answer(tools: dict, call: tuple[str, str | None]) -> ToolResult:
    """What the live loop gives back, in its words."""
    name, argument = call
    if argument is None:
        return ToolResult("error", f"Error: a closing {name} tag without an opening one", 0.0)
    return tools[name].run(argument)


def add_result(given: Given, r: Rollout, call: tuple[str, str | None], result: ToolResult) -> None:
    """The result joins its rollout as in the live loop."""
    start, room = len(r.ids), min(64, given.budget - len(r.ids))
    ids = encode_result(given.policy.tokenizer, result.text, room)
    r.append(ids, False, [0.0] * len(ids), [0.0] * len(ids))
    name, argument = call
    r.calls.append(
        Call(name, argument or "", result.status, result.seconds, start=start, end=len(r.ids))
    )
