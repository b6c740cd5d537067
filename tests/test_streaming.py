"""Searches read populations in blocks: their memory does not grow with the reference."""

import pathlib

import numpy as np
import pytest

from jaxweights.auditing.alignment import hidden_layer
from jaxweights.auditing.distances import euclidean

STATUS, RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
ROWS, WIDTH = 16_000, 2000
MEMORY = 1 << 25


class Rows:
    """A population that is made when it is read: every row is one of a few, scaled by its number."""

    def __init__(self, count):
        self.table = np.random.default_rng(0).normal(size=(97, WIDTH)).astype(np.float32)
        self.shape = count, WIDTH

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        index = np.arange(len(self))[rows]
        return self.table[index % len(self.table)] * (1 + index / ROWS).astype(np.float32)[:, None]


def peak(search):
    """The result, and how far resident memory rises above what it is before."""

    def kib(field):
        return int(next(line for line in STATUS.read_text().splitlines() if line.startswith(field)).split()[1])

    RESET.write_text("5")  # the largest resident memory is counted anew
    before = kib("VmRSS")
    return search(), (kib("VmHWM") - before) * 1024


def nearest(reference, wanted):
    return euclidean.nearest(reference[wanted], reference, memory_bytes=MEMORY).indices[:, 0]


def aligned_nearest(reference, wanted):
    units = np.arange(WIDTH).reshape(2, -1)
    queries = np.concatenate([reference[wanted][:, half] for half in units[::-1]], axis=1)
    found = hidden_layer.aligned_nearest(queries, reference, units, units[0, :0], memory_bytes=MEMORY)
    assert (found.permutations == [1, 0]).all()
    return found.indices[:, 0]


@pytest.mark.skipif(not RESET.exists(), reason="the largest resident memory can be counted anew on Linux alone")
@pytest.mark.parametrize("search", [nearest, aligned_nearest])
def test_memory_does_not_grow_with_the_reference(search):
    """128 MB of networks with 32 MB of working memory, in which a search finds the rows that it is given."""
    wanted = np.array([5, 700, ROWS // 16 - 2])
    search(Rows(ROWS // 16), wanted)  # compiles the same programs
    found, memory = peak(lambda: search(Rows(ROWS), wanted))
    np.testing.assert_array_equal(found, wanted)
    assert memory < ROWS * WIDTH * 4 / 4
