"""Shapes of the sampler's calls: for bit-exact repetition on a CPU, for few graphs on a GPU.

On a CPU in float32 the bits of a row must not depend on its neighbours. Two rules achieve that.
    rows  every call has the same number of rows, running or not: a matrix product of another size
          may round otherwise
    keys  attention looks at `padded_keys` keys: a sum over keys is made in blocks of 512. A block
          is divided further as its size decides, but never one of up to 192 (measured on AVX2; the
          sizes are among those that agreed on AVX-512)
Elsewhere, or without `constant_rows`, only as many rows are decoded as have a token to draw. On a
GPU they are halved, for a graph is recorded for each number of rows, and a row more costs little.
A GPU reads prompts and results in calls without padding rows, up to CUDA_CHUNK tokens wide.
"""

from collections.abc import Iterator
from dataclasses import dataclass

KEY_BLOCK = 32
# a graph is recorded for every number of keys, where a mask says which are seen: few, then
GRAPH_BLOCK = 512
# a GPU does not decode fewer rows: reading the weights is what takes the time
FEWEST_ROWS = 8
# tokens of a row that a GPU reads in a call: it takes as long as its launches, however few they are
CUDA_CHUNK = 256
# keys of a step whose shape may vary: whole vectors
VECTOR = 16


def round_up(x: int, multiple: int) -> int:
    """The smallest multiple that is not below x."""
    return -(-x // multiple) * multiple


def padded_keys(length: int) -> int:
    """How many keys attention looks at for `length` tokens: 32, 64, .., 192, 512, 512 + 32, .."""
    keys = round_up(length, KEY_BLOCK)
    return keys if keys % 512 <= 192 else round_up(keys, 512)


def row_sizes(rows: int, constant: bool) -> list[int]:
    """How many rows a decode step may have, in rising order.

    Constant: always `rows`. Else eighths of it and, below the first of them, powers of two.
    """
    if constant:
        return [rows]
    eighths = {round_up(rows * k, 8) // 8 for k in range(1, 9)}
    return sorted(eighths | {2**k for k in range(rows.bit_length()) if 8 * 2**k < rows})


@dataclass(frozen=True)
class Shapes:
    """Sizes of a sampler's calls. rows: live rows; constant: see above; cuda: with graphs."""

    rows: int
    constant: bool
    cuda: bool

    @property
    def sizes(self) -> list[int]:
        """Numbers of rows that a decode step may have."""
        return row_sizes(self.rows, self.constant)

    @property
    def prompt_rows(self) -> int:
        """Rows of a call that reads prompts."""
        return max(1, self.rows // 4)

    @property
    def result_rows(self) -> int:
        """Rows of a call that reads tool results."""
        return max(1, self.rows // 8)

    def reading_rows(self, count: int, most: int) -> int:
        """Rows of a call that reads the tokens of `count` rows; most: of a full one."""
        return count if self.cuda else most

    def chunk(self, asked: int) -> int:
        """Most tokens of a row in such a call. asked: the setting `prefill_chunk`."""
        return max(asked, CUDA_CHUNK // asked * asked) if self.cuda else asked

    def pieces(self, length: int, asked: int) -> Iterator[tuple[int, int]]:
        """(offset, width) of calls that read `length` tokens; widths are multiples of asked."""
        most = self.chunk(asked)
        for offset in range(0, length, most):
            yield offset, min(most, round_up(length - offset, asked))

    def rows_for(self, count: int) -> int:
        """Rows that are made for a run of `count` rollouts."""
        return next(size for size in self.sizes if size >= min(count, self.rows))

    def decoded_rows(self, count: int, made: int) -> int:
        """Rows of a decode step in which `count` run, of those that were made."""
        if not self.cuda:
            return self.rows_for(count)
        while (half := round_up(made, 2) // 2) >= max(count, FEWEST_ROWS):
            made = half
        return made

    def keys_for(self, length: int) -> int:
        """Keys that a decode step looks at if its longest row holds `length` tokens."""
        if self.constant:
            return padded_keys(length)
        return round_up(length, GRAPH_BLOCK if self.cuda else VECTOR)

    def row_capacity(self, prompt: int, budget: int, chunk: int, lag: int) -> int:
        """Tokens that a live row has room for: its prompt, its response, a padded chunk behind it
        and the decode steps that are one ahead."""
        return round_up(padded_keys(prompt + budget + chunk + lag), self.keys_for(1))
