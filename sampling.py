"""The sampling loop: many rollouts decoded in lockstep, tools called in between, every token computed once.

    1. Sampler.run        waiting starts take free slots; all running rows draw a token (draw) and read it; a closed tag calls a tool in a thread;
                          results that have come are read in groups (extend) by the live rows; finished rows leave
    2. Sampler.prefill    each prompt goes through the model once, when its first rollout begins; all rollouts of it fork from that cache
    3. Rollout            what comes of it: ids, which of them the policy chose, their log-probs and entropies, born together

A start is a row of a cache and a length in it (Start): the end of a prompt, or any token of an earlier rollout, from which a branch goes on.

Differs from the released code in: nothing is prefilled anew, neither after a tool result nor for a branch; a slow tool holds up its own row only; a rollout
whose policy writes <result> itself, a made-up tool result, ends there.

Axes: R rows of the live cache, B rows of a call, P prompts, D hidden, V vocabulary.
"""

import math
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from branching import token_stats
from model import Cache, Forks, Policy, key_slots, round_up
from protocol import FORGED, encode_result, parse_call
from tools import ToolResult

# on a CPU forks share from this budget on and copy below it: a setting decides, not the company a
# row is in; bench.py forks
SHARE_FROM = 512
# on a CPU a draw takes the rows of about so many logits at once: what it computes then stays in the
# processor's cache
DRAW_BLOCK = 2**19
# see key_length
GRAPH_BLOCK, VECTOR = 512, 16


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from (run seed, step, prompt, rollout, branch): splitmix64 over the parts in order."""
    state = 0
    for part in parts:
        state = (state ^ (part & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """A number in [0, 1) for each (seed, position), both (B,) int64: counter-based, so there is no generator state to keep. float64."""
    # logical shift of a signed integer
    right = lambda x, n: (x >> n) & ((1 << (64 - n)) - 1)

    def scramble(x):
        # splitmix64's constants as signed integers; the products wrap
        x = (x ^ right(x, 30)) * -4658895280553007687
        x = (x ^ right(x, 27)) * -7723592293110705685
        return x ^ right(x, 31)

    return right(scramble(scramble(seed) + position * -7046029254386353131), 11).double() * 2.0**-53


def draw(
    logits: Tensor, u: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row by inverse CDF; greedy at temperature 0, its log-prob and entropy then those of temperature 1.

    Args:    logits: (R, V). u: (R,) in [0, 1). top_p, top_k: see `narrowed`; training needs the defaults, everything.
    Returns: ids (R,) long, logp (R,), entropy (R,): of the whole distribution, whatever top_p and top_k left of it, as token_stats would give them.
    """
    rows = DRAW_BLOCK // logits.shape[1] + 1
    if logits.device.type == "cpu" and len(logits) > rows:
        parts = zip(logits.split(rows), u.split(rows))
        return tuple(
            map(torch.cat, zip(*(draw(x, y, temperature, top_p, top_k) for x, y in parts)))
        )
    if temperature == 0:
        ids = logits.argmax(-1)
        return ids, *token_stats(logits, ids)
    scaled = logits if temperature == 1 else logits / temperature
    # not log_p.exp(): its bits depend on which row of the tensor a number stands in
    log_p, p = scaled.log_softmax(-1), scaled.softmax(-1)
    # the clamp: 0 * -inf would be NaN
    entropy = -torch.linalg.vecdot(p, log_p.clamp(min=-1e4))
    ids = pick(
        p
        if top_p == 1 and not top_k
        else narrowed(logits.double() / temperature, top_p, top_k).softmax(-1),
        u,
    )
    return ids, log_p.gather(-1, ids[:, None])[:, 0], entropy


def pick(weights: Tensor, u: Tensor, block: int = 256) -> Tensor:
    """Inverse CDF: the first index whose cumulative weight exceeds u of the whole, (R,) long; never one of weight 0.

    First the block of the vocabulary, by its sum in float64, then the index in it: a cumulative sum over a large vocabulary costs more than all else in a draw.
    weights: (R, V) >= 0. u: (R,) in [0, 1).
    """

    # (R, n), (R, 1) -> the index, and how far into it, in [0, 1)
    def find(sums: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        ends = sums.cumsum(-1)
        target = torch.minimum(
            share * ends[:, -1:], ends[:, -1:].nextafter(torch.zeros_like(share))
        )
        at = torch.searchsorted(ends, target, right=True)
        size = sums.gather(-1, at)
        return at, ((target - ends.gather(-1, at) + size) / size).clamp(0, 1)

    blocks = F.pad(weights, (0, -weights.shape[1] % block)).view(len(weights), -1, block)
    outer, rest = find(blocks.sum(-1, dtype=torch.float64), u[:, None])
    inner, _ = find(blocks.gather(1, outer[:, :, None].expand(-1, -1, block))[:, 0].double(), rest)
    return (outer * block + inner)[:, 0]


def narrowed(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """Logits (R, V) with -inf outside the top_k likeliest tokens (0: all), and of these outside the fewest that hold top_p of the probability."""
    if top_k:
        logits = logits.masked_fill(
            logits < logits.topk(min(top_k, logits.shape[-1])).values[:, -1:], -math.inf
        )
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True, stable=True)
        # probability of all likelier tokens
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
        logits = logits.masked_fill(
            (before >= top_p).scatter(-1, order, before >= top_p), -math.inf
        )
    return logits


@dataclass
class Call:
    """A tool call: ids[start:end] of its rollout are the result (mask False)."""

    name: str
    argument: str
    status: str
    seconds: float
    start: int
    end: int


@dataclass(eq=False)
class Rollout:
    """One prompt and everything after it. ids, mask, logp and entropy have one length for ever; tool tokens have mask False and 0 for the other two.

    logp and entropy are those of the policy that sampled the token. finish: "stop" (end of turn), "length" (budget), "calls" (one call too many),
    "forged" (the policy wrote <result> itself). A branch has a parent and shares ids[:fork_at] with it.
    """

    prompt: list[int]
    seed: int
    # index of its prompt in this step: rollouts of one prompt are compared with each other
    group: int = 0
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    parent: "Rollout | None" = None
    fork_at: int = 0
    finish: str = ""
    # (written by the policy?, text), in order
    pieces: list[tuple[bool, str]] = field(default_factory=list)
    reward: float = 0.0
    # (T,) each, for the log: logp_old, future_value, branching_score, advantage
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The response as the policy saw it, tool results included."""
        return "".join(text for _, text in self.pieces)

    @property
    def policy_text(self) -> str:
        """The response without tool results."""
        return "".join(text for own, text in self.pieces if own)

    @property
    def truncated(self) -> bool:
        return self.finish in ("length", "calls")

    def append(self, ids: list[int], mask: bool, logp: list[float], entropy: list[float]) -> None:
        """Add tokens to all four lists at once."""
        assert len(ids) == len(logp) == len(entropy), (
            "a token, its log-prob and its entropy are born together"
        )
        self.ids += ids
        self.mask += [mask] * len(ids)
        self.logp += logp
        self.entropy += entropy

    def fork(self, at: int, seed: int) -> "Rollout":
        """A branch that shares ids[:at] and the calls completed in them."""
        calls = [c for c in self.calls if c.end <= at]
        return Rollout(
            self.prompt,
            seed,
            self.group,
            self.ids[:at],
            self.mask[:at],
            self.logp[:at],
            self.entropy[:at],
            calls,
            parent=self,
            fork_at=at,
        )


@dataclass
class Start:
    """Where a row begins: the first len(prompt) + fork_at tokens of a row of a cache, and the hidden state (D,) that predicts the next one.

    Without a cache it begins after its prompt, which is read when its turn comes; row is then the number of that prompt among those of the run.
    """

    rollout: Rollout
    cache: Cache | None
    row: int
    hidden: Tensor | None


@dataclass
class Row:
    """A live row: its slot, the row of the parents' cache that it goes on from, the tokens that it reads there, and those of a tool result that the model has not
    read yet."""

    rollout: Rollout
    slot: int
    parent: int
    # 0: the row holds a copy
    shared: int
    unread: list[int] = field(default_factory=list)
    # decode step at which its result came
    since: int = 0

    @property
    def own(self) -> int:
        """Tokens that its slot of the cache holds."""
        return len(self.rollout.prompt) + len(self.rollout.ids) - self.shared - len(self.unread)


class Live:
    """What a decode step reads and writes, all on the device: a cache of the live rows' own tokens, and numbers per row.

    hidden predicts the row's next token; seed and position decide what is drawn; running is 1 for rows that decode and 0 for those that wait; shared: see
    Forks; drawn: ids, log-probs, entropies of the last step. seat, place and parents: see Forks.
    """

    def __init__(self, policy: Policy, rows: int, slots: int, parent: Cache, seats: int):
        self.policy, self.cache, self.parent = policy, Cache(policy, rows, slots), parent
        whole = lambda *size: torch.zeros(*size, dtype=torch.long, device=policy.device)
        self.hidden = torch.zeros(
            rows, policy.model.config.hidden_size, dtype=policy.dtype, device=policy.device
        )
        self.seed, self.position, self.running, self.place, self.shared, self.seat, self.parents = (
            *whole(5, rows),
            whole(seats),
            whole(len(parent.length)),
        )
        self.shared += 1
        self.drawn = torch.zeros(3, rows, dtype=torch.float64, device=policy.device)

    def move(self, slots: list[int], to: list[int], length: int) -> None:
        """Rows change their slots, or change places; none of them holds more than `length` tokens."""
        source, target = self.policy.tensor(slots), self.policy.tensor(to)
        # one at a time: what is on its way takes memory
        for layer in (*self.cache.k, *self.cache.v):
            layer[target, :, :length] = layer[source, :, :length]
        for x in (self.cache.length, self.hidden, self.seed, self.position, self.shared):
            x[target] = x[source]


class Graphs:
    """Calls a function; from its second call with the same key on it replays what the device did then, as a CUDA graph. Valid as long as the same memory is used;
    what the function depends on besides that memory has to be in the key.

    Args: record: function -> object with replay(), see cuda_graphs; None: nothing is recorded.
    """

    def __init__(self, record):
        self.record, self.graphs, self.seen = record, {}, set()

    def __call__(self, key: tuple, function) -> None:
        # the first call warms up: libraries allocate what a recording may not
        if self.record is None or key not in self.seen:
            self.seen.add(key)
            return function()
        if key not in self.graphs:
            self.graphs[key] = self.record(function)
        self.graphs[key].replay()


def cuda_graphs():
    """A recorder for Graphs whose graphs share their scratch memory: none of them reads what another one left there."""
    pool = torch.cuda.graph_pool_handle()

    def record(function):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph

    return record


def extend(
    policy: Policy,
    cache: Cache,
    rows: list[int],
    held: list[int],
    ids: list[list[int]],
    batch: int,
    chunk: int,
    origins: "tuple[Cache, list[int], list[int]] | None" = None,
) -> Tensor:
    """Append a list of tokens to each row, in calls of one constant shape (batch, chunk): the bits of a row then depend on nothing but its own tokens.

    Args:    held: tokens that each row holds already. origins: (parent cache, row there, tokens shared with it) if the rows are forks.
    Returns: hidden state of each row's last token, (len(rows), D).
    """
    last = [None] * len(rows)
    for start in range(0, len(rows), batch):
        members = range(start, min(start + batch, len(rows)))
        pad, forks = batch - len(members), None
        if origins:
            parent, parents, shared = origins
            seats = torch.arange(batch, device=policy.device)
            forks = Forks(
                parent,
                policy.tensor([parents[j] for j in members] + [0] * pad),
                seats,
                seats,
                policy.tensor([shared[j] for j in members] + [1] * pad),
            )
        where = policy.tensor([rows[j] for j in members] + [cache.scratch] * pad)
        for offset in range(0, max(len(ids[j]) for j in members), chunk):
            parts = [ids[j][offset : offset + chunk] for j in members] + [[]] * pad
            block, n = (
                policy.tensor([part + [0] * (chunk - len(part)) for part in parts]),
                policy.tensor([len(part) for part in parts]),
            )
            # padding is written too
            end = key_slots(max(held[j] + min(offset, len(ids[j])) for j in members) + chunk)
            hidden = cache.append(policy, block, n, where, end, forks)
            last = [
                hidden[j - start] if j in members and parts[j - start] else h
                for j, h in enumerate(last)
            ]
    return torch.stack(last)


def encode_prompt(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a chat up to where the assistant begins."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def round_up_power(x: int) -> int:
    """The smallest power of two that is not below x."""
    return 1 << (x - 1).bit_length()


def row_sizes(rows: int, constant: bool) -> list[int]:
    """How many rows a decode call may have, in rising order: always `rows`, or its eighths and, below the first of them, powers of two."""
    return (
        [rows]
        if constant
        else sorted(
            {round_up(rows * k, 8) // 8 for k in range(1, 9)}
            | {2**k for k in range(rows.bit_length()) if 8 * 2**k < rows}
        )
    )


def key_length(constant: bool, cuda: bool):
    """The function that rounds up the keys a decode step looks at: key_slots where shapes are constant, else to whole vectors, on CUDA to more, for there is a graph
    for each number."""
    return key_slots if constant else partial(round_up, multiple=GRAPH_BLOCK if cuda else VECTOR)


def check_prompts(prompts: list[list[int]]) -> None:
    """ValueError for a prompt without a token."""
    if not all(prompts):
        raise ValueError(
            f"prompt {next(p for p, ids in enumerate(prompts) if not ids)} has no token: there is nothing to predict the first one from"
        )


class Sampler:
    """Decodes many rollouts in lockstep; see `run`.

    Each turn of the loop: free slots take waiting starts; results that have come are appended in groups; all running rows draw a token and read it. A row that
    calls a tool does not hold up the others. Where forks share, rows hold their own tokens only: those before a fork are read where they are.

    On a CPU in float32 the shapes of all calls are constant, (rows, 1), (rows/4, chunk) and (rows/8, chunk), so that the tokens of a row do not depend on what else is being
    sampled. Elsewhere, or without constant_rows, only as many rows are decoded as have a token to draw, rounded up to eighths of `rows` (below that to powers of
    two) and at no more keys than the longest of them has, rounded up (key_length): they are kept in the first slots, those in a tool behind them.

    Args:    tools: name -> object with run(argument) -> ToolResult. rows: live rows, >= 1. max_tokens, max_calls,
             max_result_tokens, temperature: see Config; temperature 0 is greedy. chunk: tokens per row and call when prompts and results are read.
             tool_threads: calls that run at once, by default as many as there are rows. top_p, top_k: see `narrowed`; for evaluation only. constant_rows: see above. lag: decode steps that are
             launched before the tokens of an earlier one are looked at, so that the device never waits for the host; 1 on CUDA, and a row then decodes one
             token in vain when its turn ends. share: forks read their parents' keys and values in place, or else copy them; None: see
             SHARE_FROM.
    """

    # decode steps that a result waits for others to be appended with
    PATIENCE = 8
    # parents are picked out one by one where they are at most 1/3 of the rows that a view would
    # span: a copy is a read and a write more
    SPARSE = 3

    def __init__(
        self,
        policy: Policy,
        tools: dict,
        rows: int,
        max_tokens: int,
        max_calls: int,
        max_result_tokens: int = 2048,
        temperature: float = 1.0,
        chunk: int = 16,
        tool_threads: int | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
        constant_rows: bool = True,
        lag: int | None = None,
        share: bool | None = None,
    ):
        least = dict(
            rows=1,
            max_tokens=1,
            max_calls=0,
            max_result_tokens=1,
            temperature=0,
            chunk=1,
            top_p=1e-6,
            top_k=0,
            tool_threads=1,
            lag=0,
        )
        given = dict(
            rows=rows,
            max_tokens=max_tokens,
            max_calls=max_calls,
            max_result_tokens=max_result_tokens,
            temperature=temperature,
            chunk=chunk,
            top_p=top_p,
            top_k=top_k,
            tool_threads=tool_threads,
            lag=lag,
        )
        for name, value in given.items():
            if value is not None and not value >= least[name]:
                raise ValueError(f"{name} must be >= {least[name]}, got {value}")
        self.policy, self.tools, self.rows, self.chunk = policy, tools, rows, chunk
        self.max_tokens, self.max_calls, self.max_result_tokens, self.temperature = (
            max_tokens,
            max_calls,
            max_result_tokens,
            temperature,
        )
        self.top_p, self.top_k = top_p, top_k
        cuda = policy.device.type == "cuda"
        self.lag = int(cuda) if lag is None else lag
        self.record = cuda_graphs if cuda else lambda: None
        self.share = (cuda or max_tokens >= SHARE_FROM) if share is None else share
        # the parents that a call looks at are rounded up to this
        self.grid = 8 if cuda else 1
        constant = constant_rows and not cuda and policy.dtype == torch.float32
        self.sizes = row_sizes(rows, constant)
        self.key_length = key_length(constant, cuda)
        # rows per call when prompts, and when results are read
        self.prompt_batch, self.batch = max(1, rows // 4), max(1, rows // 8)
        self.pool = ThreadPoolExecutor(tool_threads or rows)
        # computed: tokens put through the model; sampled: of them, drawn; row_calls: rows decoded,
        # running or not
        self.count = Counter()
        self.live = None

    def run(self, starts: list[Start], temperature: float | None = None) -> None:
        """Complete the rollouts of all starts, in place; more starts than rows wait for a free slot. Rows begin in the order given.

        The starts share one cache, or have none, those of one prompt following each other. Memory: as many rows as there are starts, at most `rows`, of the longest
        budget that is left, and as many prompts, at most `rows` and a quarter, where these are still to be read; on a CPU in float32 the weights once more, see
        Policy.packed; only while this runs.
        """
        if not starts:
            return
        self._open(starts)
        self.now = self.temperature if temperature is None else temperature
        self.waiting, self.running, self.in_tool, self.ready, self.drawn, self.steps = (
            deque(starts),
            {},
            {},
            [],
            deque(),
            0,
        )
        try:
            with self.policy.packed():
                self._loop()
        # memory is given back even if a tool has raised
        finally:
            for future in self.in_tool:
                future.cancel()
            self.live = self.graphs = self.read = None

    def _loop(self) -> None:
        """Until all rollouts are complete."""
        while self.waiting or self.running or self.in_tool or self.ready or self.drawn:
            self._admit()
            self._collect()
            if self.ready and (
                len(self.ready) >= self.batch
                or not self.running
                or self.steps - self.ready[0].since >= self.PATIENCE
            ):
                self._read_results()
            if self.running:
                self._decode()
            while len(self.drawn) > (self.lag if self.running else 0):
                self._look(*self.drawn.popleft())
            if self.in_tool and not (self.running or self.ready or self.waiting and self.free):
                wait(self.in_tool, return_when=FIRST_COMPLETED)

    def prefill(
        self, prompts: list[list[int]], cache: Cache | None = None, rows: list[int] | None = None
    ) -> tuple[Cache, Tensor]:
        """Each prompt through the model once: into these rows of a cache, by default into a new one that has a row per prompt.

        Returns: the cache, and the hidden states (P, D) that predict the first response token. Raises ValueError for a prompt without a token.
        """
        check_prompts(prompts)
        if cache is None:
            cache, rows = (
                Cache(self.policy, len(prompts), round_up(max(map(len, prompts)), self.chunk)),
                list(range(len(prompts))),
            )
        # whatever they held before
        cache.length[self.policy.tensor(rows)] = 0
        with self.policy.packed():
            hidden = extend(
                self.policy, cache, rows, [0] * len(prompts), prompts, self.prompt_batch, self.chunk
            )
        self.count["computed"] += sum(map(len, prompts))
        return cache, hidden

    def _open(self, starts: list[Start]) -> None:
        """Memory for these starts: only as many rows, and slots in them, as they can use."""
        self.forks, parent, longest = (
            Counter(s.row for s in starts),
            starts[0].cache,
            max(len(s.rollout.prompt) for s in starts),
        )
        if any(s.cache is not parent for s in starts):
            raise ValueError("the starts of a run must share one cache")
        wrong = next(
            (
                r
                for r in (s.rollout for s in starts)
                if len(r.ids) != r.fork_at or parent is None and r.ids
            ),
            None,
        )
        if wrong:
            raise ValueError(
                f"a start begins where its rollout ends{', without a cache at the end of its prompt' * (parent is None)}: {len(wrong.ids)} ids, "
                f"fork_at {wrong.fork_at}"
            )
        # every live row may belong to another prompt, and those that come next are read together
        if parent is None:
            check_prompts(list({s.row: s.rollout.prompt for s in starts}.values()))
            if len(list(groupby(starts, lambda s: s.row))) > len(self.forks):
                raise ValueError("starts of one prompt must follow each other")
            parent = Cache(
                self.policy,
                min(len(self.forks), self.rows + self.prompt_batch),
                round_up(longest, self.chunk),
            )
        self.read, self.left, self.spare = {}, Counter(), list(range(parent.scratch))[::-1]
        self.bucket = next(size for size in self.sizes if size >= min(len(starts), self.sizes[-1]))
        room = (
            max(len(s.rollout.prompt) + self.max_tokens - self._shared(s.rollout) for s in starts)
            + self.chunk
            + self.lag
        )
        seats = round_up(len(parent.length), self.grid) * (
            round_up_power(max(self.forks.values())) + 3
        )
        self.live = Live(self.policy, self.bucket, self.key_length(room), parent, seats)
        self.free, self.graphs, self.marks = list(range(self.bucket)), Graphs(self.record()), None
        self.parents, self.seats, self.seated = slice(0, 0), 0, 0

    def _shared(self, rollout: Rollout) -> int:
        """Tokens that a fork reads where they are."""
        return len(rollout.prompt) + rollout.fork_at if self.share else 0

    def _admit(self) -> None:
        """Waiting starts take free slots, the first ones."""
        rows, hidden = [], []
        self.free.sort(reverse=True)
        while self.free and self.waiting:
            start = self.waiting.popleft()
            parent, state = (start.row, start.hidden) if start.cache else self._prompt_of(start)
            row = Row(start.rollout, self.free[-1], parent, self._shared(start.rollout))
            if len(start.rollout.ids) >= self.max_tokens:
                self._finish(row, "length")
                continue
            self.running[self.free.pop()] = row
            rows, hidden = rows + [row], hidden + [state]
        if rows:
            self._set_running(rows, torch.stack(hidden))
            if self.share:
                self._seat()
            for row in rows if not self.share else ():
                self.live.cache.copy(row.slot, self.live.parent, row.parent, row.own)

    def _prompt_of(self, start: Start) -> tuple[int, Tensor]:
        """Where the prompt of a start lies in the parents' cache, and what predicts its first token. Prompts are read a call full at a time, as far as rows of
        that cache are spare: there is one as long as a slot is free."""
        if start.row not in self.read:
            unread = {
                s.row: s.rollout.prompt for s in (start, *self.waiting) if s.row not in self.read
            }
            numbers = list(unread)[: min(self.prompt_batch, len(self.spare))]
            rows = [self.spare.pop() for _ in numbers]
            _, hidden = self.prefill([unread[p] for p in numbers], self.live.parent, rows)
            for p, row, state in zip(numbers, rows, hidden):
                self.read[p], self.left[row] = (row, state), self.forks[p]
        return self.read[start.row]

    def _set_running(self, rows: list[Row], hidden: Tensor) -> None:
        """Rows decode from now on, from these hidden states (len(rows), D)."""
        at, live, tensor = (
            self.policy.tensor([row.slot for row in rows]),
            self.live,
            self.policy.tensor,
        )
        self.running.update({row.slot: row for row in rows})
        live.hidden[at], live.cache.length[at], live.shared[at] = (
            hidden,
            tensor([row.own for row in rows]),
            tensor([row.shared for row in rows]),
        )
        live.seed[at], live.position[at] = (
            tensor([row.rollout.seed for row in rows]),
            tensor([len(row.rollout.ids) for row in rows]),
        )

    def _seat(self) -> None:
        """Give every row in a decoded slot a seat among those of its parent."""
        rows = self._in_slots()
        forks, low, high = (
            Counter(row.parent for row in rows),
            min(row.parent for row in rows),
            max(row.parent for row in rows) + 1,
        )
        low, high = (
            low // self.grid * self.grid,
            min(round_up(high, self.grid), len(self.live.parent.length)),
        )
        parents = sorted(forks)
        parents += parents[:1] * (round_up(len(parents), self.grid) - len(parents))
        # as a view of neighbouring rows, most of them alive; else picked out, at every step
        if self.SPARSE * len(parents) > high - low:
            parents, self.parents = list(range(low, high)), slice(low, high)
        else:
            self.parents = len(parents)
            self.live.parents[: len(parents)] = self.policy.tensor(parents)
        first = {parent: k for k, parent in reversed(list(enumerate(parents)))}
        n, taken, place = self._seats(max(forks.values())), Counter(), [0] * self.bucket
        seat = [0] * (len(parents) * n)
        for row in rows:
            where = first[row.parent] * n + taken[row.parent]
            taken[row.parent] += 1
            seat[where], place[row.slot] = row.slot, where
        self.seats, self.seated = len(seat), len(forks)
        self.live.seat[: len(seat)], self.live.place[: len(place)] = (
            self.policy.tensor(seat),
            self.policy.tensor(place),
        )

    def _seats(self, forks: int) -> int:
        """Seats per parent for so many forks: on CUDA a power of two, for there is a graph for each number. On a CPU attention takes 32 or 64 queries at a time;
        four at least must be left for the last block, for a product with fewer rows is another routine, with other bits."""
        if self.grid > 1:
            return round_up_power(forks)
        return next(
            n for n in range(forks, forks + 4) if not 0 < n * self.live.cache.groups % 32 < 4
        )

    def _in_slots(self) -> list[Row]:
        """The rows in slots that are decoded, running or not."""
        return [
            row
            for row in (*self.running.values(), *self.in_tool.values(), *self.ready)
            if row.slot < self.bucket
        ]

    def _arrange(self) -> None:
        """Running rows into the first slots, of which no more are decoded than hold them; rows in a tool change places with them."""
        size = next(size for size in self.sizes if size >= len(self.running))
        outside = [row for row in self.running.values() if row.slot >= size]
        if outside:
            idle = {row.slot: row for row in (*self.in_tool.values(), *self.ready)}
            # free ones first
            slots = sorted(set(range(size)) - set(self.running), key=lambda slot: slot in idle)[
                : len(outside)
            ]
            moves = [
                *zip(outside, slots),
                *((idle[slot], row.slot) for row, slot in zip(outside, slots) if slot in idle),
            ]
            self.live.move(
                [row.slot for row, _ in moves],
                [slot for _, slot in moves],
                max(row.own for row, _ in moves) + self.lag,
            )
            for row, slot in moves:
                row.slot = slot
            self.running = {row.slot: row for row in self.running.values()}
            self.free = list(
                set(range(len(self.live.hidden)))
                - set(self.running)
                - {row.slot for row in idle.values()}
            )
        changed, self.bucket = outside or size != self.bucket, size
        if self.share and (
            changed or self.SPARSE * len({row.parent for row in self._in_slots()}) <= self.seated
        ):
            self._seat()

    def _decode(self) -> None:
        """Launch a step: every running row draws a token and reads it."""
        self._arrange()
        marks = [int(slot in self.running) for slot in range(self.bucket)]
        if marks != self.marks:
            self.marks, self.live.running[: self.bucket] = marks, self.policy.tensor(marks)
        end = self.key_length(max(row.own for row in self.running.values()) + len(self.drawn) + 1)
        self.graphs((self.bucket, end, str(self.parents), self.seats), partial(self._step, end))
        drawn = self.live.drawn[:, : self.bucket].to("cpu", non_blocking=True, copy=True)
        ready = torch.cuda.Event() if drawn.is_pinned() else None
        if ready:
            ready.record()
        self.drawn.append(
            (
                drawn,
                ready,
                [(row, row.slot, len(row.rollout.calls)) for row in self.running.values()],
            )
        )
        self.steps += 1
        self.count += Counter(row_calls=self.bucket, computed=len(self.running))

    @torch.no_grad()
    def _step(self, end: int) -> None:
        """Draw a token in every row and read it; only the device knows which."""
        live, B = self.live, self.bucket
        ids, logp, entropy = draw(
            self.policy.logits(live.hidden[:B]).float(),
            uniform(live.seed[:B], live.position[:B]),
            self.now,
            self.top_p,
            self.top_k,
        )
        live.drawn[:, :B] = torch.stack([ids.double(), logp.double(), entropy.double()])
        live.position[:B] += live.running[:B]
        parents = self.parents if isinstance(self.parents, slice) else live.parents[: self.parents]
        forks = (
            Forks(live.parent, parents, live.seat[: self.seats], live.place[:B], live.shared[:B])
            if self.share
            else None
        )
        live.hidden[:B] = live.cache.append(
            self.policy, ids[:, None], live.running[:B], slice(0, B), end, forks
        )

    def _look(self, drawn: Tensor, ready, rows: list[tuple[Row, int, int]]) -> None:
        """The tokens of a step join their rollouts. Of a row whose turn had ended before, what it drew since is dropped."""
        if ready:
            ready.synchronize()
        ids, logp, entropy = drawn.tolist()
        for row, slot, turn in rows:
            if self.running.get(row.slot) is row and len(row.rollout.calls) == turn:
                row.rollout.append([int(ids[slot])], True, [logp[slot]], [entropy[slot]])
                self.count["sampled"] += 1
                self._after_token(row, int(ids[slot]))

    def _after_token(self, row: Row, token: int) -> None:
        """End of turn, a closed tool tag, the end of the budget, or nothing."""
        r = row.rollout
        if token in self.policy.stop_ids:
            return self._finish(row, "stop")
        turn = r.ids[r.calls[-1].end if r.calls else 0 :] if token in self.policy.closing else []
        tag = self.policy.closed_tag(turn)
        if tag == FORGED:
            self._finish(row, "forged")
        elif tag and len(r.calls) >= self.max_calls:
            self._finish(row, "calls")
        elif len(r.ids) >= self.max_tokens:
            self._finish(row, "length")
        elif tag:
            call = parse_call(self.policy.decode(turn)) or (tag[2:-1], None)
            r.calls.append(Call(*call, "", 0.0, len(r.ids), len(r.ids)))
            del self.running[row.slot]
            self.in_tool[self.pool.submit(self._call, *call)] = row

    def _call(self, name: str, argument: str | None) -> ToolResult:
        """Run a tool, in a thread of the pool."""
        if argument is None:
            return ToolResult("error", f"Error: a closing {name} tag without an opening one", 0.0)
        if name not in self.tools:
            return ToolResult("error", f"Error: there is no {name} tool here", 0.0)
        return self.tools[name].run(argument)

    def _collect(self) -> None:
        """Results that have come join their rollouts. Encoded here, in the main thread: the tokenizer is not made for several."""
        for future in [f for f in self.in_tool if f.done()]:
            row, result = self.in_tool.pop(future), future.result()
            r = row.rollout
            ids = encode_result(
                self.policy.tokenizer,
                result.text,
                min(self.max_result_tokens, self.max_tokens - len(r.ids)),
            )
            r.append(ids, False, [0.0] * len(ids), [0.0] * len(ids))
            call = r.calls[-1]
            call.status, call.seconds, call.argument, call.end = (
                result.status,
                result.seconds,
                call.argument or "",
                len(r.ids),
            )
            row.unread, row.since = ids, self.steps
            if len(r.ids) < self.max_tokens:
                self.ready.append(row)
            else:
                self._finish(row, "length")

    def _read_results(self) -> None:
        """Put the results that have come through the model; their rows run again."""
        rows, self.ready = self.ready, []
        held, origins = (
            [row.own for row in rows],
            (self.live.parent, [row.parent for row in rows], [row.shared for row in rows])
            if self.share
            else None,
        )
        slots = [row.slot for row in rows]
        # with a lag the row has drawn further
        self.live.cache.length[self.policy.tensor(slots)] = self.policy.tensor(held)
        hidden = extend(
            self.policy,
            self.live.cache,
            slots,
            held,
            [row.unread for row in rows],
            self.batch,
            self.chunk,
            origins,
        )
        self.count["computed"] += sum(len(row.unread) for row in rows)
        for row in rows:
            row.unread = []
        self._set_running(rows, hidden)

    def _finish(self, row: Row, reason: str) -> None:
        r = row.rollout
        r.finish = reason
        bounds = [0, *(edge for call in r.calls for edge in (call.start, call.end)), len(r.ids)]
        r.pieces = [
            (k % 2 == 0, self.policy.decode(r.ids[a:b]))
            for k, (a, b) in enumerate(zip(bounds, bounds[1:]))
            if b > a
        ]
        self.running.pop(row.slot, None)
        if row.slot not in self.free:
            self.free.append(row.slot)
        # of a prompt that was read here: nobody will fork from it any more at 0
        self.left[row.parent] -= 1
        if self.left[row.parent] == 0:
            self.spare.append(row.parent)


def sample_initial(
    sampler: Sampler,
    prompts: list[list[int]],
    n: int,
    seeds: list[int],
    temperature: float | None = None,
    groups=None,
) -> list[Rollout]:
    """n rollouts of every prompt, prompt by prompt; each prompt is read once. seeds: one per prompt. temperature: the sampler's unless given. groups: what
    the rollouts of each prompt carry as their group, its index by default."""
    if not prompts:
        return []
    groups = range(len(prompts)) if groups is None else groups
    starts = [
        Start(Rollout(prompt, mix_seed(seeds[p], k), groups[p]), None, p, None)
        for p, prompt in enumerate(prompts)
        for k in range(n)
    ]
    sampler.run(starts, temperature)
    return [s.rollout for s in starts]
