"""The settings of the sampler, checked.

1. SamplingParams    lengths, budgets, how tokens are drawn
2. too_many_calls    are these tool calls beyond the budgets?
3. beyond_positions  do prompt and response fit the model?
4. short_results     does a tool's result fit its limit?
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class SamplingParams:
    """The sampler's settings. Lengths are tokens; temperature 0 is greedy. The defaults draw from
    the whole distribution.

    decode_rows: rows decoded at once. prefill_chunk: tokens per row and call when prompts and
    results are read. constant_rows: see support/shapes.py. lag: see Sampler; None: 1 on a GPU.
    repetition_penalty: of ids in prompt, response and results, as Hugging Face's; 1: none.
    max_tool_calls: of each tool, "python=5,search=10"; max_calls: of all together.
    """

    decode_rows: int
    max_tokens: int
    max_calls: int
    max_result_tokens: int
    prefill_chunk: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_tool_calls: str = ""
    constant_rows: bool = True
    lag: int | None = None

    def __post_init__(self):
        least = {"decode_rows": 1, "max_tokens": 1, "max_result_tokens": 1, "top_p": 1e-6}
        least |= {"prefill_chunk": 1, "repetition_penalty": 1e-6}
        for f in fields(self):
            value, low = getattr(self, f.name), least.get(f.name, 0)
            if isinstance(value, (int, float)) and not value >= low:
                raise ValueError(f"{f.name} must be >= {low}, got {value}")
        budgets_of(self.max_tool_calls)

    @classmethod
    def of(cls, settings) -> "SamplingParams":
        """Those that a larger set of settings holds under the same names."""
        names = [f.name for f in fields(cls) if hasattr(settings, f.name)]
        return cls(**{name: getattr(settings, name) for name in names})


def budgets_of(text: str) -> dict[str, int]:
    """The calls that each tool may be asked for: "python=5,search=10" by name."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    names = [name.strip() for name, _, _ in parts]
    for name, _, count in parts:
        number = count.strip().isdecimal() and count.isascii()
        if not (name.strip() and number and names.count(name.strip()) == 1):
            wrong = (
                f"must be NAME=N,NAME=N, each name once, such as python=5,search=10, got {text!r}"
            )
            raise ValueError(f"--max_tool_calls {wrong}")
    return {name.strip(): int(count) for name, _, count in parts}


def too_many_calls(names: list[str], settings) -> bool:
    """Are calls of these tools more than max_calls in all, or than max_tool_calls of one?"""
    each = budgets_of(settings.max_tool_calls)
    return len(names) > settings.max_calls or any(names.count(name) > each[name] for name in each)


def beyond_positions(longest: int, budget: int, positions: int | None) -> str:
    """What is wrong if prompt and response are longer than the model can be; "" if they fit.

    longest: prompt, tokens. positions: of the model, if known.
    """
    if not positions or longest + budget <= positions:
        return ""
    return (
        f"a prompt of {longest} tokens and up to {budget} of response (--max_tokens) are "
        f"more than the model's {positions} positions: lower --max_tokens"
    )


def short_results(settings, protocol, tokenizer) -> str:
    """What is wrong if --max_result_tokens cannot hold a result; "" if it can, or without calls.

    Raises: ValueError if the chat template writes no results.
    """
    longest = settings.max_result_tokens
    if not settings.max_calls or longest >= (least := protocol.least_result(tokenizer)):
        return ""
    around = f"with what --protocol {protocol.name} writes around it"
    return f"--max_result_tokens {longest} cannot hold a result {around}: give at least {least}"
