"""The settings of the sampler, checked."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class SamplingParams:
    """The sampler's settings. Lengths are tokens; temperature 0 is greedy. The defaults draw from
    the whole distribution.

    decode_rows: rows decoded at once. prefill_chunk: tokens per row and call when prompts and
    results are read. constant_rows: see support/shapes.py. lag: see Sampler; None: 1 on a GPU.
    """

    decode_rows: int
    max_tokens: int
    max_calls: int
    max_result_tokens: int
    prefill_chunk: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    constant_rows: bool = True
    lag: int | None = None

    def __post_init__(self):
        least = {"decode_rows": 1, "max_tokens": 1, "max_result_tokens": 1, "top_p": 1e-6}
        least |= {"prefill_chunk": 1}
        for f in fields(self):
            value, low = getattr(self, f.name), least.get(f.name, 0)
            if value is not None and not value >= low:
                raise ValueError(f"{f.name} must be >= {low}, got {value}")

    @classmethod
    def of(cls, settings) -> "SamplingParams":
        """Those that a larger set of settings holds under the same names."""
        names = [f.name for f in fields(cls) if hasattr(settings, f.name)]
        return cls(**{name: getattr(settings, name) for name in names})


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
