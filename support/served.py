"""A model that is served elsewhere (vLLM, SGLang), with the tools here.

    1. Served._ask        one turn from an OpenAI-compatible completion endpoint
    2. Served._use_tools  the calls at its end, executed here
    3. Served.__call__    turn after turn, by the rules of sampling.Sampler

What the server writes comes back as text and is encoded again for the next request: good for
evaluation, not for training.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from protocol import Asked, opened_by
from rollout import Call, Family, Rollout
from sampling import ignore
from support.corpus import utf8
from support.http import Unavailable, post_json
from support.judge import api_key
from support.native_calls import protocol_of
from support.sampling_params import too_many_calls
from support.seeds import mix_seed
from tools import call_tools

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
        self.protocol = protocol_of(run)
        self.run = run
        # The tokenizer is not made for several threads.
        self.lock = threading.Lock()
        self.request = {
            "model": name,
            "temperature": run.temperature,
            "top_p": run.top_p,
            "top_k": run.top_k or -1,
            "stop": list(self.protocol.stops) or None,
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
        }
        if run.repetition_penalty != 1:
            self.request["repetition_penalty"] = run.repetition_penalty
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
        questions: list | None = None,
    ) -> list[Rollout]:
        """n rollouts of each prompt, prompt by prompt; see Sampler.initial."""
        opened = opened_by(self.tokenizer, prompts)
        rollouts = [
            Rollout(prompt, mix_seed(seeds[p], k), p, opened[p])
            for p, prompt in enumerate(prompts)
            for k in range(n)
        ]
        for r in rollouts:
            r.family = Family(questions[r.group] if questions else None, self.protocol)
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
            opened = self.protocol.reopened(self.tokenizer) if r.calls else r.opened
            whole = opened + text
            asked = self.protocol.calls_in([text], lambda text=whole: text, r.finish == "stop")
            if self.protocol.forged_in([text]):
                r.finish = "forged"
            elif asked and too_many_calls([call.name for call in (*r.calls, *asked)], self.run):
                r.finish = "calls"
            elif asked and len(r.ids) < self.run.max_tokens:
                self._use_tools(r, asked)
        finished(r)

    def _use_tools(self, r: Rollout, asked: list[Asked]) -> None:
        """Append the results of a turn's calls, cut to the budget."""
        # the server keeps the end of turn to itself; a call in tags has none
        end = self.protocol.turn_end(self.tokenizer)
        if end:
            self._add(r, True, end, self._encode(end))
        place = len(r.ids)
        r.calls += [Call(call.name, call.argument, "", 0.0, place, place) for call in asked]
        results = call_tools(self.tools, r, asked)
        limits = self.run.max_result_tokens, self.run.max_tokens - place
        with self.lock:
            texts = [result.text for result in results]
            ids = self.protocol.encode_results(self.tokenizer, texts, *limits)
        self._add(r, False, self.tokenizer.decode(ids), ids)
        r.answered(results)
        # no ids: the budget is too short for the results
        r.finish = "" if ids and len(r.ids) < self.run.max_tokens else "length"

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
            closing = [stop for stop in self.protocol.stops if stop.startswith("</")]
            cut = [stop for stop in closing if text.rfind(f"<{stop[2:]}") > text.rfind(stop)]
            text += "".join(cut[:1])
        return text, "length" if reason == "length" else "stop"
