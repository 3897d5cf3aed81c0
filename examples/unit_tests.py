"""Unit tests as a reward: the share of a row's tests that the model's last program passes.

    python train.py --reward_fn examples/unit_tests.py:unit_tests --tools python ...

A row of --data: {"prompt": "Write double(x).", "tests": ["assert double(2) == 4", ...]}, without
"answer". The program is what stands in the last <python> block.
"""

from tools import PythonTool

# made when the file is read, before CUDA: it forks. --sandbox does not reach it: where the whole
# jail is missing, add sandbox="best-effort"
JAIL = PythonTool(timeout=5.0)


def unit_tests(rollout, question) -> dict:
    """Share of the row's "tests" that the last <python> block passes, each run in the jail.

    A test is a line such as "assert double(2) == 4".
    """
    calls = [call.argument for call in rollout.calls if call.name == "python"]
    tests = question.row["tests"]
    if not calls:
        return {"reward": -1.0, "passed": 0.0}
    passed = [JAIL.run(f"{calls[-1]}\n{test}").status == "ok" for test in tests]
    return {"reward": sum(passed) / len(tests), "passed": float(all(passed))}
