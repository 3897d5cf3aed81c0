"""Rollouts of one checkpoint, branches of a later one: what part of them is right.

    1. Lab             the two policies, the questions, their tools
    2. Lab.rollouts    rollouts of the older policy, with Omega and the score of the newer one
    3. Lab.branches    is a branch right? K branches from each of many tokens, by the newer policy
    4. of_tokens       part b: random tokens
    5. of_criteria     part c: the tokens that a criterion chooses
    6. found_decisions how many of a bundled world's decisions a criterion finds

Omega needs two policies: the older one has sampled, the newer one has moved. Branches are the
newer one's, as in a step of APPO.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from appo import decision_points, rank_tokens, set_omega
from config import Config
from extras.pilot.stats import spread_of
from extras.world.decisions import decision_recall, decisions, hops_of
from policy import Policy
from rewards import is_correct
from rollout import Rollout, close_all
from sampling import Sampler
from support.inputs import probed_tools, prompts_of, read_questions
from support.native_calls import protocol_of
from support.questions import Question
from support.sampling_params import SamplingParams
from support.seeds import QUESTIONS, mix_seed, uniform

CRITERIA = ("random", "boundary", "entropy", "score", "oracle")
# branches of a rollout that part c compares
MOST = 16
# the best of some tokens by their own branches: tokens tried, branches of each
TRIED, PILOTS = 12, 8
# rollouts whose cache is held at once
ROWS = 32


@dataclass(frozen=True)
class Branched:
    """A branch. right: its answer; same: it has drawn its parent's token again."""

    right: bool
    same: bool


@dataclass
class Lab:
    """What is needed to sample from two checkpoints of one run."""

    config: Config
    older: Policy
    newer: Policy
    questions: list[Question]
    prompts: list[list[int]]
    tools: dict

    @classmethod
    def of(cls, config: Config, older: Path, newer: Path, count: int) -> "Lab":
        """The first `count` held-out questions of a run's settings. ValueError for bad input."""
        config = dataclasses.replace(config, algo="appo", branches=MOST, model=str(older))
        old, new = (Policy.load(str(path), device=config.device) for path in (older, newer))
        questions = read_questions(config, config.eval_data, first=count)
        prompts = prompts_of(config, config.eval_data, questions, old.tokenizer)
        return cls(config, old, new, questions, prompts, probed_tools(config, config.tools))

    @property
    def bundled(self) -> bool:
        """Are the questions a bundled world's?"""
        return (Path(self.config.eval_data).parent / "mode.json").is_file()

    def sampler(self, policy: Policy) -> Sampler:
        """The sampling loop of one of the two."""
        params = SamplingParams.of(self.config)
        return Sampler(policy, self.tools, params, protocol_of(self.config))

    def right(self, rollouts: list[Rollout]) -> list[bool]:
        """Is each one's answer right?"""
        return [is_correct(r, self.questions[r.group]) for r in rollouts]

    def rollouts(self, each: int, seed: int) -> list[Rollout]:
        """`each` rollouts of every question, with logp_old, entropy, Omega and the score."""
        config = self.config
        seeds = [mix_seed(seed, QUESTIONS, n) for n in range(len(self.prompts))]
        sampler = self.sampler(self.older)
        rollouts = sampler.initial(self.prompts, each, seeds, questions=self.questions)
        self.older.score(rollouts, config.temperature, config.micro_tokens)
        for r in rollouts:
            r.logp_old = r.logp
        self.newer.score(rollouts, config.temperature, config.micro_tokens)
        set_omega(rollouts, config)
        rank_tokens(self.newer, rollouts, config)
        return rollouts

    def branches(
        self, rollouts: list[Rollout], points: list[list[int]], about: str
    ) -> list[list[Branched]]:
        """The branch from each point. points: token indices of each rollout."""
        sampler, out = self.sampler(self.newer), []
        for start in tqdm(range(0, len(rollouts), ROWS), desc=about):
            part, places = rollouts[start : start + ROWS], points[start : start + ROWS]
            args = self.config.temperature, self.config.micro_tokens
            # scored anew: a fork copies its prefix from the cache
            cache = self.newer.score(part, *args, keep_cache=True)
            with torch.no_grad():
                branches = sampler.branches(part, places, cache)
            same = [x.ids[x.fork_at] == x.parent.ids[x.fork_at] for x in branches]
            pairs = map(Branched, self.right(branches), same)
            out += [[next(pairs) for _ in row] for row in places]
        return out

    def close(self, rollouts: list[Rollout]) -> None:
        """Nothing is sampled any more."""
        close_all(rollouts)
        for tool in self.tools.values():
            tool.close()


def mixed(rollouts: list[Rollout], right: list[bool]) -> list[Rollout]:
    """Those of prompts with right and wrong rollouts."""
    outcomes: dict[int, set] = {}
    for r, answer in zip(rollouts, right, strict=True):
        outcomes.setdefault(r.group, set()).add(answer)
    return [r for r in rollouts if len(outcomes[r.group]) == 2]


def own_tokens(r: Rollout, config: Config) -> list[int]:
    """Tokens of a rollout that may be drawn anew: the policy's, min_new before the budget's end."""
    return [t for t, own in enumerate(r.mask) if own and t <= config.max_tokens - config.min_new]


def of_tokens(lab: Lab, rollouts: list[Rollout], tokens: int, each: int) -> list[dict]:
    """Part b: `each` branches from tokens drawn at random, as many from each rollout.

    Returns: a row per token: prompt, entropy, score, position in [0, 1), right of n branches.
    score is None where Omega does not vary.
    """
    share, points = -(-tokens // len(rollouts)), []
    for r in rollouts:
        own = own_tokens(r, lab.config)
        drawn = uniform(torch.full((len(own),), mix_seed(r.seed, 7)), torch.arange(len(own)))
        points.append(sorted(own[i] for i in drawn.argsort()[:share].tolist()))
    repeated = [[t for t in row for _ in range(each)] for row in points]
    answers = lab.branches(rollouts, repeated, "branches of random tokens")
    rows = []
    for r, row, right in zip(rollouts, points, answers):
        for n, t in enumerate(row):
            rows.append(
                {
                    "prompt": r.group,
                    "entropy": round(float(r.entropy[t]), 4),
                    "score": None if r.degenerate else round(float(r.branching_score[t]), 4),
                    "position": round(t / len(r.ids), 4),
                    "right": sum(x.right for x in right[n * each : (n + 1) * each]),
                    "n": each,
                }
            )
    return rows


def of_criteria(lab: Lab, rollouts: list[Rollout]) -> list[dict]:
    """Part c: branches from the tokens that each criterion chooses of each rollout.

    Returns: a row per rollout and criterion: prompt; one: how many of MOST branches from its best
    token are right; spread: is the branch from its k-th best token right, for k up to MOST.
    "best" is the token whose pilot branches differ most, and `one` is of fresh branches.
    """
    rows = []
    # where a world is decided is known of bundled ones alone
    for name in CRITERIA if lab.bundled else CRITERIA[:-1]:
        config = dataclasses.replace(lab.config, criterion=name)
        chosen = decision_points(lab.newer, rollouts, config)
        points = [row[:1] * MOST + row for row in chosen]
        for r, row in zip(rollouts, lab.branches(rollouts, points, name)):
            rows.append(row_of(name, r, row[:MOST], row[MOST:]))
    tried = [thinned(own_tokens(r, lab.config), TRIED) for r in rollouts]
    pilots = [[t for t in row for _ in range(PILOTS)] for row in tried]
    answers = lab.branches(rollouts, pilots, "pilot branches")
    best = []
    for row, right in zip(tried, answers):
        tries = [right[n * PILOTS : (n + 1) * PILOTS] for n in range(len(row))]
        counts = [sum(x.right for x in tried) for tried in tries]
        best.append(max(zip(row, counts), key=lambda pair: spread_of(pair[1], PILOTS))[0])
    fresh = lab.branches(rollouts, [[t] * MOST for t in best], "best")
    return rows + [row_of("best", r, row, []) for r, row in zip(rollouts, fresh)]


def row_of(criterion: str, r: Rollout, one: list[Branched], spread: list[Branched]) -> dict:
    """A row of part c."""
    return {
        "criterion": criterion,
        "prompt": r.group,
        "one": sum(x.right for x in one),
        "spread": [int(x.right) for x in spread],
        "same": [int(x.same) for x in spread],
    }


def found_decisions(lab: Lab, rollouts: list[Rollout], points: int) -> dict[str, dict]:
    """criterion -> recall, precision and after_last of its best points (extras/world/decisions.py),
    and how many decisions a rollout has. Of a bundled world only."""
    text, known = lab.newer.text, []
    for r in rollouts:
        texts, prompt = ([text[i] for i in ids] for ids in (r.ids, r.prompt))
        known.append([*decisions(texts, r.mask, hops_of("".join(prompt)))])
    out = {"": {"decisions": round(sum(map(len, known)) / len(known), 3)}}
    for name in CRITERIA[:-1]:
        config = dataclasses.replace(lab.config, criterion=name, branches=points)
        chosen = decision_points(lab.newer, rollouts, config)
        out[name] = {k: round(x, 4) for k, x in decision_recall(chosen, known).items()}
    return out


def thinned(tokens: list[int], count: int) -> list[int]:
    """At most so many of them, evenly spaced."""
    count = min(count, len(tokens))
    return [tokens[i * len(tokens) // count] for i in range(count)]
