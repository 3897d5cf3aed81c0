"""support/live.py: starts that cannot be, rows that move."""

import pytest
import torch
from conftest import begun, sampler_for

from rollout import Rollout
from sampling import Start
from support.live import Live, Row


def test_starts_that_cannot_be_are_refused(agent, prompts):
    sampler = sampler_for(agent, {})
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        sampler.prefill([prompts[0], []])
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        sampler.initial([prompts[0], []], 3, [0, 1])
    with pytest.raises(ValueError, match="starts of one prompt must follow each other"):
        sampler.run([Start(Rollout(prompts[p], 0), prompt_number=p) for p in (0, 1, 0)])
    with pytest.raises(ValueError, match="without a cache at the end of its prompt"):
        sampler.run([Start(begun(prompts[0], 0, [1]))])
    cache, hidden = sampler.prefill(prompts[:1])
    started = begun(prompts[0], 0, [1, 2])
    started.fork_at = 0
    with pytest.raises(ValueError, match="a start begins where its rollout ends: 2 ids, fork_at 0"):
        sampler.run([Start(started, cache, 0, hidden[0])])
    other, _ = sampler.prefill(prompts[:1])
    with pytest.raises(ValueError, match="must share one cache"):
        sampler.run([Start(Rollout(prompts[0], 0), c, 0, hidden[0]) for c in (cache, other)])


def test_a_row_holds_its_prompt_and_what_the_model_has_read():
    row = Row(Rollout([1, 2, 3], 0, ids=[4, 5, 6, 7]), 0, unread=[6, 7])
    assert row.cached == 5


def test_rows_change_places_with_all_their_numbers(agent):
    """A cycle of three rows: every number goes where its row goes, the others stay."""
    live = Live(agent, 4, 64, penalises=True)
    live.seen[:4] = torch.rand(live.seen[:4].shape, generator=torch.manual_seed(1)) < 0.5
    for x in (live.cache.kv.transpose(0, 1), live.hidden):
        x[:4] = torch.randn(x[:4].shape, generator=torch.Generator().manual_seed(0))
    for x in (live.cache.length, live.seed, live.position):
        x[:4] = torch.tensor([11, 22, 33, 44])
    numbers = [live.cache.kv[:, :4, :40], live.hidden, live.seed, live.position]
    numbers.append(live.seen)
    before = [x.clone() for x in numbers]
    live.move([0, 1, 2], [1, 2, 0], 40)
    for now, then in zip(numbers, before):
        axis = 1 if now.dim() == 6 else 0
        order = torch.tensor([2, 0, 1, 3])
        assert torch.equal(now, then.index_select(axis, order))
    assert live.cache.length.tolist()[:4] == [33, 11, 22, 44]
