"""The evaluation of a run on its held-out questions, before, while and after it trains."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from config import Config
from sampling import Sampler
from support.ranks import Ranks
from support.results import write_result
from support.runfiles import Log, shown_settings, versions
from support.scores import broken_format, evaluate, faults_of, numbers_of
from support.seeds import EVALUATIONS, mix_seed


def due(run: Config, step: int) -> bool:
    """Is a run evaluated after so many steps: before the first, or as --eval_every says?"""
    return step == 0 or bool(run.eval_every) and step % run.eval_every == 0


def sample_share(
    run: Config,
    sampler: Sampler,
    test: tuple[list, list],
    ranks: Ranks,
    asked: Callable[[], bool],
    reward_fn: Callable | None = None,
) -> list[tuple[int, dict, dict]] | None:
    """This rank's share of the questions: (place, row of `evaluate` sampled, the same greedy).

    None if the run was asked to stop, on all ranks.
    """
    questions, prompts = test
    places = ranks.share(list(range(len(questions))))
    mine = [questions[i] for i in places], [prompts[i] for i in places]
    seeds = [mix_seed(mix_seed(run.seed, EVALUATIONS), place) for place in places]
    with sampler.policy.unsharded():
        sampled = list(evaluate(sampler.initial, *mine, run.eval_samples, seeds, reward_fn))
        if asked():
            return None
        greedy = partial(sampler.initial, temperature=0)
        greedy = list(evaluate(greedy, *mine, 1, seeds, reward_fn))
    return list(zip(places, sampled, greedy))


def store(run: Config, log: Log, step: int, shares: list[list[tuple[int, dict, dict]]]) -> None:
    """A line in metrics.jsonl, eval_STEP.json, and a line on the screen, of all ranks' shares."""
    rows = sorted((row for share in shares for row in share), key=lambda row: row[0])
    sampled, greedy = [row[1] for row in rows], [row[2] for row in rows]
    own = numbers_of(sampled)
    numbers = {f"eval_{name}": value for name, value in own.items()}
    measure, scores = main_measure(own, numbers_of(greedy), run.eval_samples)
    numbers["eval_greedy"] = scores[1]
    log.write("metrics", {"step": step} | numbers)
    result = {"numbers": own, "rows": sampled, "questions": len(sampled)}
    result |= {"samples": run.eval_samples, "settings": shown_settings(run)}
    result |= {"data": run.eval_data, "step": step, "versions": versions()}
    write_result(Path(run.out) / f"eval_{step:06d}.json", result)
    shown = ["unknown" if score is None else f"{score:.3f}" for score in scores]
    # said once
    for line in broken_format(faults_of(sampled)) if "format" not in log.warned else ():
        tqdm.write(line)
        log.warned |= {"format"}
    tqdm.write(
        f"step {step}: held-out {measure} {shown[0]}, greedy {shown[1]}, format errors "
        f"{numbers['eval_format_errors']:.3f} ({len(sampled)} x {run.eval_samples})"
    )


def main_measure(sampled: dict, greedy: dict, k: int) -> tuple[str, tuple]:
    """What an evaluation is judged by, and its values sampled and greedy, None if not known.

    The accuracy; of questions without answers the reward.
    """
    if "avg@1" in greedy:
        return "accuracy", (sampled[f"avg@{k}"], greedy["avg@1"])
    return "reward", (sampled.get("reward"), greedy.get("reward"))
