"""Lines stay inside their picture, whatever the values."""

from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.plot import HEIGHT, MARGIN, WIDTH, plot_of


@given(st.lists(st.integers(0, 10**12), max_size=100))
def test_all_points_are_inside_the_picture(values):
    plot = plot_of(values)
    points = [tuple(map(float, point.split(","))) for point in plot.line.split()]
    assert len(points) == len(values)
    assert all(MARGIN <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert plot.top >= max(values, default=0)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
