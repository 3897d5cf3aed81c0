"""A model that is served elsewhere (vLLM, SGLang), with the tools here.

    1. Served._ask        one turn from an OpenAI-compatible completion endpoint
    2. Served._use_tool   the call at its end, executed here
    3. Served.__call__    turn after turn, by the rules of sampling.Sampler

What the server writes comes back as text and is encoded again for the next request: good for
evaluation, not for training.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from protocol import FORGED, STOP_TAGS, TOOL_TAGS, encode_result, opened_by, parse_call
from rollout import Call, Rollout
from sampling import ignore
from support.corpus import utf8
from support.http import Unavailable, post_json
from support.judge import api_key
from support.seeds import mix_seed
from tools import ToolResult

# seconds that a turn may take
TIMEOUT = 600.0


class Served:
    """Samples as `evaluate` wants them from a model behind an endpoint.

    Args:    url: of the API, such as http://host:8000/v1; a key is read from OPENAI_API_KEY.
             name: the model's on the server. tokenizer: the model's own. run: the settings of
             the evaluation.
    Raises:  ValueError if the endpoint does not answer.
    """

    def __init__(self, url: str, name: str, tokenizer, tools: dict, run):
        self.url = f"{url.rstrip('/')}/completions"
        self.tokenizer = tokenizer
        self.tools = tools
        self.run = run
        # The tokenizer is not made for several threads.
        self.lock = threading.Lock()
        self.request = {
            "model": name,
            "temperature": run.temperature,
            "top_p": run.top_p,
            "top_k": run.top_k or -1,
            "stop": list(STOP_TAGS),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
        }
        try:
            self._ask(self._encode("Hello"), room=1, seed=0)
        except Unavailable as problem:
            raise ValueError(f"--served {url}: {problem}") from None

    def __call__(
        self,
        prompts: list[list[int]],
        n: int,
        seeds: list[int],
        finished: Callable[[Rollout], None] = ignore,
    ) -> list[Rollout]:
        """n rollouts of each prompt, prompt by prompt. finished: told each when it is complete."""
        opened = opened_by(self.tokenizer, prompts)
        rollouts = [
            Rollout(prompt, mix_seed(seeds[p], k), p, opened[p])
            for p, prompt in enumerate(prompts)
            for k in range(n)
        ]
        with ThreadPoolExecutor(self.run.decode_rows) as pool:
            list(pool.map(partial(self._complete, finished), rollouts))
        return rollouts

    def _complete(self, finished: Callable[[Rollout], None], r: Rollout) -> None:
        """Turn after turn until the rollout ends."""
        while not r.finish:
            room = self.run.max_tokens - len(r.ids)
            # Every turn has a seed of its own.
            seed = (r.seed + len(r.calls)) % 2**31
            text, r.finish = self._ask(r.prompt + r.ids, room, seed)
            self._add(r, True, text, self._encode(text))
            tag = next((tag for tag in STOP_TAGS if text.rstrip().endswith(tag)), None)
            if tag == FORGED:
                r.finish = "forged"
            elif tag and len(r.calls) >= self.run.max_calls:
                r.finish = "calls"
            elif tag and len(r.ids) < self.run.max_tokens:
                self._use_tool(r, *(parse_call(text) or (tag[2:-1], "")))
        finished(r)

    def _use_tool(self, r: Rollout, name: str, argument: str) -> None:
        """Append a call's result, cut to the budget."""
        result = ToolResult("error", f"Error: there is no {name} tool here", 0.0)
        if name in self.tools:
            result = self.tools[name].run(argument)
        room = min(self.run.max_result_tokens, self.run.max_tokens - len(r.ids))
        with self.lock:
            ids = encode_result(self.tokenizer, result.text, room)
        start, end = len(r.ids), len(r.ids) + len(ids)
        r.calls.append(Call(name, argument, result.status, result.seconds, start, end))
        self._add(r, False, self.tokenizer.decode(ids), ids)
        r.finish = "length" if len(r.ids) >= self.run.max_tokens else ""

    def _encode(self, text: str) -> list[int]:
        with self.lock:
            return self.tokenizer(text, add_special_tokens=False).input_ids

    def _add(self, r: Rollout, own: bool, text: str, ids: list[int]) -> None:
        """Append tokens; log-probs and entropies are not known here."""
        r.append(ids, own, [0.0] * len(ids), [0.0] * len(ids))
        r.pieces.append((own, text))

    def _ask(self, ids: list[int], room: int, seed: int) -> tuple[str, str]:
        """(text of one turn, "stop" or "length"); a closing tag that was cut off is put back."""
        turn = {"prompt": ids, "max_tokens": max(1, room), "seed": seed}
        answer = post_json(self.url, self.request | turn, api_key(), timeout=TIMEOUT)
        try:
            choice = answer["choices"][0]
            text, reason = utf8(choice["text"]), str(choice["finish_reason"])
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Unavailable(self.url, "the answer is not a completion") from None
        if reason == "stop":
            # Some servers cut the stop string off, whatever they are asked.
            open_tags = [t for t in TOOL_TAGS if text.rfind(f"<{t}>") > text.rfind(f"</{t}>")]
            text += "".join(f"</{tag}>" for tag in open_tags[:1])
        return text, "length" if reason == "length" else "stop"
