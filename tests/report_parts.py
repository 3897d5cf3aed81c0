"""Hand-made runs for the tests of report.py."""

import json
import zlib

HOSTILE = '</script><!-- <b>x</b> & "quoted" \u2028 \U0001f600 \u05d0'
# half a pair of UTF-16: no encoding can write it
HALF = "\ud800"


def write_run(folder, metrics, rollouts=(), config=None):
    """A run's folder with these rows; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("metrics", metrics), ("rollouts", rollouts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def step_row(step, reward, **more):
    return {"step": step, "reward": reward, "tokens_sampled": 100, "seconds": 2.0} | more


def ids_of(pieces):
    return [zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in pieces]


def initial(index, pieces, reward, step=1, group=0, mask=None, **more):
    """An initial rollout whose token t has entropy t / 10, Omega 1 + t / 100, score t - 2."""
    count = range(len(pieces))
    row = {"step": step, "group": group, "index": index, "parent": None, "fork_at": 0}
    row |= {"prompt": "Why?", "pieces": pieces, "ids": ids_of(pieces)}
    row |= {"mask": mask or [True] * len(pieces), "reward": reward, "finish": "stop", "calls": []}
    row |= {"entropy": [t / 10 for t in count], "future_value": [1 + t / 100 for t in count]}
    row |= {"branching_score": [t - 2.0 for t in count], "advantage": [-1.0 for _ in count]}
    return row | more


def branch(index, parent, fork_at, pieces, reward, **more):
    """A branch of a rollout: the parent's tokens up to fork_at, then these."""
    row = parent | {"index": index, "parent": parent["index"], "fork_at": fork_at}
    row |= {"pieces": parent["pieces"][:fork_at] + pieces, "reward": reward}
    row["ids"] = ids_of(row["pieces"])
    row["mask"] = [True] * len(row["pieces"])
    for name in ("future_value", "branching_score", "advantage"):
        row.pop(name, None)
    row["entropy"] = [0.5] * len(row["pieces"])
    return row | more


def call(name, start, status="ok", seconds=1.0):
    times = {"status": status, "seconds": seconds, "start": start, "end": start + 1}
    return {"name": name, "argument": "x"} | times


def made_tree(step=1, group=0, text=HOSTILE):
    """Two initial rollouts, three branches of the first: a filler, the same token, content.

    text: of a token of the second.
    """
    first = initial(
        0,
        ["<think>", " So", " 7", " old", "</think>"],
        0.0,
        step,
        group,
        calls=[call("search", 1, seconds=0.5)],
    )
    second = initial(1, ["<think>", text, "\n"], 1.0, step, group, mask=[True, True, False])
    second["calls"] = [call("python", 2, "timeout", 5.0)]
    branches = [
        branch(2, first, 1, [" Well", " 7"], 1.0, calls=[call("search", 2, seconds=0.1)]),
        branch(3, first, 3, [" old", " x"], 0.0, calls=[call("search", 1, seconds=0.5)]),
        branch(4, first, 3, [" new"], 0.0, calls=[]),
    ]
    return [first, second, *branches]
