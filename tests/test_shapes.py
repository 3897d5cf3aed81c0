"""support/shapes.py: few shapes, each with room for what it must hold."""

import pytest

from support.shapes import Shapes, padded_keys, row_sizes


def test_row_sizes():
    assert row_sizes(32, False) == [1, 2, 4, 8, 12, 16, 20, 24, 28, 32]
    assert row_sizes(32, True) == [32] and row_sizes(1, False) == [1]
    for rows in (1, 3, 7, 64, 100):
        sizes = row_sizes(rows, False)
        assert sizes == sorted(set(sizes)) and sizes[-1] == rows


@pytest.mark.parametrize("constant, cuda, keys", [(1, 0, 32), (0, 0, 32), (0, 1, 512)])
def test_a_step_looks_at_few_keys_beyond_its_longest_row(constant, cuda, keys):
    shapes = Shapes(8, bool(constant), bool(cuda))
    assert shapes.keys_for(17) == keys
    for n in range(1, 1100):
        assert n <= shapes.keys_for(n)
        if not cuda:
            assert shapes.keys_for(n) <= padded_keys(n), "a cache of padded_keys(n) has room for it"


@pytest.mark.parametrize("asked", [16, 48, 64, 512])
@pytest.mark.parametrize("cuda", [False, True])
def test_pieces_follow_each_other(asked, cuda):
    shapes = Shapes(8, not cuda, cuda)
    for length in (1, 15, 16, 255, 256, 257, 300, 700, 2048):
        pieces = list(shapes.pieces(length, asked))
        ends = [offset + width for offset, width in pieces]
        assert [offset for offset, _ in pieces] == [0, *ends[:-1]]
        assert ends[-1] == -(-length // asked) * asked
        assert all(w <= shapes.chunk(asked) and w % asked == 0 for _, w in pieces)
        assert cuda or all(w == asked for _, w in pieces)
    assert shapes.reading_rows(1, 4) == (1 if cuda else 4)


def test_rows_of_a_step_hold_those_that_run():
    shapes = Shapes(32, False, False)
    assert [shapes.rows_for(n) for n in (1, 3, 9, 32, 100)] == [1, 4, 12, 32, 32]
    assert (shapes.prompt_rows, shapes.result_rows) == (8, 4)
    assert (Shapes(1, True, False).prompt_rows, Shapes(1, True, False).result_rows) == (1, 1)
