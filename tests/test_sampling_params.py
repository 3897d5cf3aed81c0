"""support/sampling_params.py: what cannot be is refused; the rest comes from larger settings."""

import pytest

from config import Config
from support.sampling_params import SamplingParams

NEEDED = dict(decode_rows=4, max_tokens=64, max_calls=4, max_result_tokens=48, prefill_chunk=16)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(decode_rows=0), "decode_rows must be >= 1, got 0"),
        (dict(temperature=-1.0), "temperature must be >= 0, got -1.0"),
        (dict(top_p=0.0), "top_p must be >= 1e-06, got 0.0"),
        (dict(top_k=-3), "top_k must be >= 0, got -3"),
        (dict(lag=-1), "lag must be >= 0, got -1"),
        (dict(max_tokens=0), "max_tokens must be >= 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**NEEDED | changes)


def test_settings_of_a_run_or_an_evaluation():
    """Those of the same names; what a run does not have stays: the whole distribution."""
    run = Config(decode_rows=7, max_tokens=99, temperature=0.7, prefill_chunk=32)
    params = SamplingParams.of(run)
    assert (params.decode_rows, params.max_tokens, params.prefill_chunk) == (7, 99, 32)
    assert (params.temperature, params.top_p, params.top_k, params.lag) == (0.7, 1.0, 0, None)
