"""The sampling loop: many rollouts decoded in lockstep, tools called in between.

    1. _admit          waiting starts take free slots; a fork copies its prefix' keys and values
    2. _collect        results of tools that have come join their rollouts
    3. _read_results   they go through the model, several rows in one call
    4. _decode         every running row draws a token and reads it
    5. _look           the tokens join their rollouts; a turn ends, a closed tag calls a tool
    `Sampler.run` is this loop. `Sampler.initial` and `Sampler.branches` say where rollouts start.

While sampling, every token that stays goes through the model once: a prompt for all its rollouts, a
prefix for all its forks.
A slow tool holds up its own row only.

Differs from the released code in: nothing is prefilled anew, neither after a tool result nor for a
branch; a rollout whose policy writes <result> itself, a made-up tool result, ends there.

Axes: R rows of the live cache, C rows of a call, P prompts, D hidden, V vocabulary.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from kv_cache import KVCache
from policy import Policy
from protocol import PAPER, Asked, Tags, opened_by
from rollout import Call, Family, Rollout
from support.draw import draw, penalised
from support.gpu_decoder import FlashDecoder
from support.graphs import Graphs, cuda_graphs
from support.live import Live, Row, check_prompts, check_starts
from support.phases import in_phase
from support.sampling_params import SamplingParams, too_many_calls
from support.seeds import mix_seed, uniform
from support.shapes import Shapes, padded_keys, round_up
from tools import call_tools

# told a rollout that is complete
Finished = Callable[[Rollout], None]
# a tool result waits at most so many decode steps, so that several are read in one call
RESULT_WAIT = 8
NOT_FINITE = (
    "the model's logits are not finite: it has diverged, or its weights are damaged; go on from an "
    "earlier checkpoint with a lower --lr"
)


def ignore(rollout: Rollout) -> None:
    """The default of `finished`: do nothing."""


@dataclass
class Start:
    """Where a rollout goes on: after the first tokens of a row of a cache.

    row: of the cache. hidden: (D,), predicts the next token. Without a cache the rollout begins
    after its prompt, which is read when its turn comes; prompt_number tells the prompts apart.
    """

    rollout: Rollout
    cache: KVCache | None = None
    row: int = 0
    hidden: Tensor | None = None
    prompt_number: int = 0


class Sampler:
    """Decodes many rollouts in lockstep; see `run`.

    With constant_rows, on a CPU in float32, every call has a constant shape: the tokens of a row do
    not depend on what else is being sampled (support/shapes.py). Elsewhere the running rows are
    moved into the first slots, and only those are decoded. lag: decode steps launched before the
    tokens of an earlier one are looked at, 1 on a GPU, so that it never waits for the host.

    A rollout is in one of these: waiting (a start without a slot), running (slot -> Row), in_tool
    (future -> Row), ready (its result has come). A slot is a row of the live cache; a Row can move
    to another. launched: decode steps whose tokens were not looked at yet. A drawn token counts
    only if its Row still runs, in the turn in which the step was launched. The others are dropped,
    and the length of the row in the cache is set back before anything else is read into it.
    free: slots without a Row. bucket: number of slots that are decoded. marks: which of them run,
    0 or 1. prefilled: number of a prompt -> (its row in prompt_cache, hidden state).

    Args: tools: name -> object with run(argument) -> ToolResult. protocol: how calls are written.
    count: computed (tokens put through the model), sampled (of them, drawn and kept), row_calls
           (rows decoded, running or not).
    """

    def __init__(self, policy: Policy, tools: dict, params: SamplingParams, protocol: Tags = PAPER):
        cuda = policy.device.type == "cuda"
        constant = params.constant_rows and not cuda and policy.dtype == torch.float32
        self.policy, self.tools, self.params, self.protocol = policy, tools, params, protocol
        self.lag = int(cuda) if params.lag is None else params.lag
        self.shapes = Shapes(params.decode_rows, constant, cuda)
        self.capture = cuda_graphs if cuda else lambda: None
        self.pool = ThreadPoolExecutor(params.decode_rows)
        self.count = Counter()
        self._forget()

    # ---- where rollouts start

    @in_phase("sample")
    def initial(
        self,
        prompts: list[list[int]],
        n: int,
        seeds: list[int],
        temperature: float | None = None,
        groups: Sequence[int] | None = None,
        finished: Finished = ignore,
        questions: Sequence | None = None,
    ) -> list[Rollout]:
        """n rollouts of every prompt, prompt by prompt; each prompt is read once.

        Args: seeds: one per prompt. temperature: the sampler's unless given. groups: the index that
              the rollouts of each prompt carry, by default its own. finished: see run.
              questions: one per prompt, what tools with a state are opened with.
        """
        groups = range(len(prompts)) if groups is None else groups
        opened = opened_by(self.policy.tokenizer, prompts)
        starts = [
            Start(Rollout(prompt, mix_seed(seeds[p], k), groups[p], opened[p]), prompt_number=p)
            for p, prompt in enumerate(prompts)
            for k in range(n)
        ]
        for start in starts:
            question = questions[start.prompt_number] if questions else None
            start.rollout.family = Family(question, self.protocol)
        self.run(starts, temperature, finished)
        return [start.rollout for start in starts]

    @in_phase("branch")
    def branches(
        self,
        rollouts: list[Rollout],
        points: list[list[int]],
        cache: KVCache,
        finished: Finished = ignore,
    ) -> list[Rollout]:
        """A branch from every branch point, in order: token t of its parent is drawn anew.

        Args: points: indices of policy tokens per rollout, not checked here. cache: of a scoring
              pass over these rollouts, row n for rollouts[n]. finished: see run.
        """
        starts = []
        for row, (rollout, places) in enumerate(zip(rollouts, points, strict=True)):
            for t in places:
                starts.append(Start(rollout.fork(t), cache, row, cache.states[row, t]))
        self.run(starts, finished=finished)
        return [start.rollout for start in starts]

    # ---- the loop

    def run(
        self, starts: list[Start], temperature: float | None = None, finished: Finished = ignore
    ) -> None:
        """Complete the rollouts of all starts, in place. They begin in the order given.

        All starts have the same cache, or none has one. Without a cache, those of one prompt
        follow each other. A start waits until a row is free. While this runs it holds memory for
        decode_rows rows of the longest prompt and budget; without constant rows for fewer if starts
        are few. finished: told each rollout when it is complete, while others go on.
        """
        if not starts:
            return
        positions = getattr(self.policy.model.config, "max_position_embeddings", None)
        check_starts(starts, self.params.max_tokens, positions)
        self.temperature = self.params.temperature if temperature is None else temperature
        self.finished = finished
        try:
            self._open(starts)
            with self.policy.unsharded():
                while self.waiting or self.running or self.in_tool or self.ready or self.launched:
                    self._admit()
                    self._collect()
                    self._read_results()
                    self._decode()
                    self._look()
        finally:
            # memory is given back even if a tool has raised
            for future in self.in_tool:
                future.cancel()
            self._forget()

    def _open(self, starts: list[Start]) -> None:
        """Memory for these starts: rows, and tokens in them, as support/shapes.py says."""
        self.waiting = deque(starts)
        self.decode_steps = 0
        longest = max(len(start.rollout.prompt) for start in starts)
        budget, chunk = self.params.max_tokens, self.shapes.chunk(self.params.prefill_chunk)
        capacity = self.shapes.row_capacity(longest, budget, chunk, self.lag)
        self.bucket = self.shapes.rows_for(len(starts))
        penalises = self.params.repetition_penalty != 1
        self.live = Live(self.policy, self.bucket, capacity, penalises)
        self.free = list(range(self.bucket))
        self.marks = None
        self.graphs = Graphs(self.capture())

    def _forget(self) -> None:
        """No rows, and no memory for any."""
        self.waiting, self.launched = deque(), deque()
        self.running, self.in_tool, self.ready = {}, {}, []
        self.prefilled: dict[int, tuple[int, Tensor]] = {}
        self.live: Live | None = None
        self.graphs: Graphs | None = None
        self.prompt_cache: KVCache | None = None

    def _admit(self) -> None:
        """Waiting starts take free slots and copy the keys and values they go on from."""
        rows, hidden = [], []
        self.free.sort(reverse=True)
        while self.free and self.waiting:
            start = self.waiting.popleft()
            cache, source, state = self._origin(start)
            row = Row(start.rollout, self.free[-1])
            if len(start.rollout.ids) >= self.params.max_tokens:
                self._finish(row, "length")
                continue
            self.free.pop()
            self.live.cache.copy(row.slot, cache, source, row.cached)
            rows.append(row)
            hidden.append(state)
        if rows:
            self._set_running(rows, torch.stack(hidden))

    def _origin(self, start: Start) -> tuple[KVCache, int, Tensor]:
        """Where the tokens of a start lie: cache, row, and what predicts its next token.

        Prompts are read a call full at a time. Starts of one prompt follow each other: by then
        every rollout of the earlier prompts has started.
        """
        if start.cache is not None:
            return start.cache, start.row, start.hidden
        if start.prompt_number not in self.prefilled:
            ahead = {s.prompt_number: s.rollout.prompt for s in (start, *self.waiting)}
            batch = dict(islice(ahead.items(), self.shapes.prompt_rows))
            self.prompt_cache, hidden = self.prefill(list(batch.values()), self.prompt_cache)
            self.prefilled = {number: (row, hidden[row]) for row, number in enumerate(batch)}
        return self.prompt_cache, *self.prefilled[start.prompt_number]

    def _collect(self) -> None:
        """Results that have come join their rollouts; if nothing else is to do, wait for one."""
        if self.in_tool and not (self.running or self.ready):
            wait(self.in_tool, return_when=FIRST_COMPLETED)
        for future in [f for f in self.in_tool if f.done()]:
            row, results = self.in_tool.pop(future), future.result()
            r = row.rollout
            limits = self.params.max_result_tokens, self.params.max_tokens - len(r.ids)
            texts = [result.text for result in results]
            # encoded here, in the main thread: the tokenizer is not made for several
            ids = self.protocol.encode_results(self.policy.tokenizer, texts, *limits)
            r.append(ids, False, [0.0] * len(ids), [0.0] * len(ids))
            r.answered(results)
            row.unread, row.since = ids, self.decode_steps
            # no ids: the budget is too short for the results
            if ids and len(r.ids) < self.params.max_tokens:
                self.ready.append(row)
            else:
                self._finish(row, "length")

    def _read_results(self) -> None:
        """Put results through the model once there are enough or one has waited long enough."""
        enough = len(self.ready) >= self.shapes.result_rows or not self.running
        if not self.ready or not (enough or self.decode_steps - self.ready[0].since >= RESULT_WAIT):
            return
        rows, self.ready = self.ready, []
        cached, slots = [row.cached for row in rows], [row.slot for row in rows]
        # on a GPU a row has drawn `lag` tokens that are not on its rollout: they are dropped
        self.live.cache.length[self.policy.tensor(slots)] = self.policy.tensor(cached)
        unread = [row.unread for row in rows]
        hidden = self._extend(self.live.cache, slots, cached, unread, self.shapes.result_rows)
        for row in rows:
            row.unread = []
        self._set_running(rows, hidden)

    def _decode(self) -> None:
        """Launch a step: every running row draws a token and reads it."""
        if not self.running:
            return
        self._arrange()
        marks = [int(slot in self.running) for slot in range(self.bucket)]
        if marks != self.marks:
            self.marks = marks
            self.live.running[: self.bucket] = self.policy.tensor(marks)
        longest = max(row.cached for row in self.running.values()) + len(self.launched) + 1
        by_lengths = isinstance(self.policy.for_sampling()[0], FlashDecoder)
        end = None if by_lengths else self.shapes.keys_for(longest)
        self.graphs((self.bucket, end), partial(self._draw_and_read, end))
        drawn = self.live.drawn[:, : self.bucket].to("cpu", non_blocking=True, copy=True)
        arrived = torch.cuda.Event() if drawn.is_pinned() else None
        if arrived:
            arrived.record()
        rows = [(row, row.slot, len(row.rollout.calls)) for row in self.running.values()]
        self.launched.append((drawn, arrived, rows))
        self.decode_steps += 1
        self.count += Counter(row_calls=self.bucket, computed=len(self.running))

    @torch.no_grad()
    def _draw_and_read(self, end: int | None) -> None:
        """Draw a token in every row and read it; only the device knows which."""
        live, C = self.live, self.bucket
        decoder, head = self.policy.for_sampling()
        u = uniform(live.seed[:C], live.position[:C])
        logits = head(live.hidden[:C]).float()  # (C, V)
        if live.seen is not None:
            logits = penalised(logits, live.seen[:C], self.params.repetition_penalty)
        ids, logp, entropy = draw(logits, u, self.temperature, self.params.top_p, self.params.top_k)
        if live.seen is not None:
            live.seen[:C].scatter_(1, ids[:, None], True)
        # one copy to the host for all three: a double holds every id exactly
        live.drawn[:, :C] = torch.stack([ids.double(), logp.double(), entropy.double()])
        live.position[:C] += live.running[:C]
        running = live.running[:C]
        live.hidden[:C] = live.cache.append(decoder, ids[:, None], running, slice(0, C), end)

    def _look(self) -> None:
        """The tokens of earlier steps join their rollouts.

        Of a row whose turn had ended before, what it drew since is dropped.
        """
        while len(self.launched) > (self.lag if self.running else 0):
            drawn, arrived, rows = self.launched.popleft()
            if arrived:
                arrived.synchronize()
            ids, logp, entropy = drawn.tolist()
            for row, slot, calls_then in rows:
                # a later turn, or another row in the slot: the token was drawn after a turn's end
                if self.running.get(row.slot) is row and len(row.rollout.calls) == calls_then:
                    if not math.isfinite(logp[slot]):
                        raise ValueError(NOT_FINITE)
                    token = int(ids[slot])
                    row.rollout.append([token], True, [logp[slot]], [entropy[slot]])
                    self.count["sampled"] += 1
                    self._after_token(row, token)

    def _after_token(self, row: Row, token: int) -> None:
        """End of turn, calls of tools, the end of the budget, or nothing."""
        r, ended = row.rollout, token in self.policy.stop_ids
        asked: list[Asked] = []
        forged = False
        if ended or token in self.policy.closing:
            turn = r.ids[r.calls[-1].end if r.calls else 0 :]
            texts = [self.policy.text[i] for i in turn]
            forged = self.protocol.forged_in(texts)
            asked = self.protocol.calls_in(texts, partial(self._turn_text, r, turn), ended)
        if forged:
            self._finish(row, "forged")
        elif asked and too_many_calls([call.name for call in (*r.calls, *asked)], self.params):
            self._finish(row, "calls")
        elif ended and not asked:
            self._finish(row, "stop")
        elif len(r.ids) >= self.params.max_tokens:
            self._finish(row, "length")
        elif asked:
            place = len(r.ids)
            r.calls += [Call(call.name, call.argument, "", 0.0, place, place) for call in asked]
            del self.running[row.slot]
            self.in_tool[self.pool.submit(call_tools, self.tools, r, asked)] = row

    def _turn_text(self, r: Rollout, turn: list[int]) -> str:
        """The text of a turn so far, behind the <think> that prompt or results left open for it."""
        opened = self.protocol.reopened(self.policy.tokenizer) if r.calls else r.opened
        return opened + self.policy.decode(turn)

    def _finish(self, row: Row, reason: str) -> None:
        """A rollout is complete: its text, and its slot is free."""
        r = row.rollout
        r.finish = reason
        edges = [edge for call in r.calls for edge in (call.start, call.end)]
        bounds = [0, *edges, len(r.ids)]
        r.pieces = [
            (k % 2 == 0, self.policy.decode(r.ids[a:b]))
            for k, (a, b) in enumerate(zip(bounds, bounds[1:]))
            if b > a
        ]
        self.running.pop(row.slot, None)
        if row.slot not in self.free:
            self.free.append(row.slot)
        self.finished(r)

    # ---- rows and calls

    def _set_running(self, rows: list[Row], hidden: Tensor) -> None:
        """Rows decode from now on, from these hidden states (len(rows), D)."""
        live, tensor = self.live, self.policy.tensor
        at = tensor([row.slot for row in rows])
        self.running.update({row.slot: row for row in rows})
        live.hidden[at] = hidden
        live.mark(rows)
        live.cache.length[at] = tensor([row.cached for row in rows])
        live.seed[at] = tensor([row.rollout.seed for row in rows])
        live.position[at] = tensor([len(row.rollout.ids) for row in rows])

    def _arrange(self) -> None:
        """Running rows into the first slots; rows that wait for a tool change places with them."""
        self.bucket = self.shapes.decoded_rows(len(self.running), len(self.live.hidden))
        outside = [row for row in self.running.values() if row.slot >= self.bucket]
        if not outside:
            return
        idle = {row.slot: row for row in (*self.in_tool.values(), *self.ready)}
        inside = set(range(self.bucket)) - set(self.running)
        # free slots first
        slots = sorted(inside, key=lambda slot: slot in idle)[: len(outside)]
        moves = list(zip(outside, slots))
        moves += [(idle[slot], row.slot) for row, slot in zip(outside, slots) if slot in idle]
        length = max(row.cached for row, _ in moves) + self.lag
        self.live.move([row.slot for row, _ in moves], [slot for _, slot in moves], length)
        for row, slot in moves:
            row.slot = slot
        self.running = {row.slot: row for row in self.running.values()}
        taken = set(self.running) | {row.slot for row in idle.values()}
        self.free = [slot for slot in range(len(self.live.hidden)) if slot not in taken]

    def prefill(self, prompts: list[list[int]], cache: KVCache | None = None) -> tuple:
        """Each prompt through the model once, into the first rows of a cache.

        Args:    cache: to be overwritten if it is large enough; else a new one is made.
        Returns: the cache, and the hidden states (P, D) that predict the first response token.
        Raises:  ValueError for a prompt without a token.
        """
        check_prompts(prompts)
        rows = list(range(len(prompts)))
        capacity = padded_keys(round_up(max(map(len, prompts)), self.params.prefill_chunk))
        if cache is None or cache.capacity < capacity or cache.scratch < len(prompts):
            cache = self.policy.cache(len(prompts), capacity)
        cache.length.zero_()
        with self.policy.unsharded():
            cached = [0] * len(prompts)
            hidden = self._extend(cache, rows, cached, prompts, self.shapes.prompt_rows)
        return cache, hidden

    def _extend(
        self, cache: KVCache, rows: list[int], cached: list[int], ids: list[list[int]], batch: int
    ) -> Tensor:
        """Append a list of tokens to each row; on a CPU in calls of one constant shape.

        The bits of a row then depend on nothing but its own tokens. cached: tokens in each row.
        batch: most rows of a call.
        Returns: hidden state of each row's last token, (len(rows), D).
        """
        decoder, _ = self.policy.for_sampling()
        last: list[Tensor | None] = [None] * len(rows)
        tensor, shapes = self.policy.tensor, self.shapes
        for start in range(0, len(rows), batch):
            members = list(range(start, min(start + batch, len(rows))))
            pad = shapes.reading_rows(len(members), batch) - len(members)
            where = tensor([rows[j] for j in members] + [cache.scratch] * pad)
            most = max(len(ids[j]) for j in members)
            for offset, width in shapes.pieces(most, self.params.prefill_chunk):
                parts = [ids[j][offset : offset + width] for j in members] + [[]] * pad
                block = tensor([part + [0] * (width - len(part)) for part in parts])
                # padding is written too
                longest = max(cached[j] + min(offset, len(ids[j])) for j in members) + width
                n = tensor([len(part) for part in parts])
                hidden = cache.append(decoder, block, n, where, padded_keys(longest))
                for j, part, state in zip(members, parts, hidden):
                    last[j] = state if part else last[j]
        self.count["computed"] += sum(map(len, ids))
        return torch.stack(last)
