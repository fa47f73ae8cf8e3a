"""Inputs that more than one target wants."""

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

CUTS = st.lists(st.integers(0, 1 << 20), max_size=12) | st.just([-1])


def pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut a stream at some places; [-1] is at every place."""
    places = range(len(stream)) if cuts == [-1] else (cut % (len(stream) + 1) for cut in cuts)
    edges = sorted({0, len(stream), *places})
    return [stream[a:b] for a, b in itertools.pairwise(edges)]
