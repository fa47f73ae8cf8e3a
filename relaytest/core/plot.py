"""Lines over days, as coordinates for an SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, MARGIN = 720, 180, 40  # user units of the picture; the margin holds the labels


@dataclass(frozen=True, slots=True)
class Plot:
    """A line with its axis.

    Attributes:
        line: Of the values, "x,y x,y ...".
        area: The same, closed along the axis.
        top: The value at the top of the picture.
    """

    line: str
    area: str
    top: int


def plot_of(values: Sequence[int]) -> Plot:
    """Return the line of values at equal distances, from 0 up to a round number above all.

    >>> plot_of([0, 5, 10]).line, plot_of([0, 5, 10]).top
    ('40,180 380,90 720,0', 10)
    """
    top = _round_up(max(values, default=0))
    step = (WIDTH - MARGIN) / max(1, len(values) - 1)
    points = [
        f"{MARGIN + n * step:.4g},{HEIGHT - value * HEIGHT / top:.4g}"
        for n, value in enumerate(values)
    ]
    line = " ".join(points)
    return Plot(line, f"{MARGIN},{HEIGHT} {line} {WIDTH},{HEIGHT}", top)


def _round_up(value: int) -> int:
    """Return 1, 2 or 5 times a power of ten.

    >>> [_round_up(n) for n in (0, 1, 3, 10, 11, 501)]
    [1, 1, 5, 10, 20, 1000]
    """
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= value:
                return factor * power
        power *= 10
