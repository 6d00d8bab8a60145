"""Line charts."""

import json
from xml.etree import ElementTree

import pytest

from skyrl_train.tracking.chart import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH, Series, line_chart


def parsed(*series, unit="number", last_step=10):
    return ElementTree.fromstring(line_chart(series, unit, last_step))


def lines(svg):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in svg.iter("polyline")
    ]


def tick_labels(svg):
    return [text.text for text in svg.iter("text")][:-2]


def test_points_lie_between_the_axes():
    svg = parsed(Series("a", [(0, 0.0), (5, 10.0), (10, 20.0)]))
    assert lines(svg) == [
        [
            (LEFT, HEIGHT - BOTTOM),
            ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2),
            (WIDTH - RIGHT, TOP),
        ]
    ]
    assert tick_labels(svg) == ["0", "10", "20"]


def test_missing_values_are_gaps_and_single_points_are_dots():
    svg = parsed(Series("a", [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, None), (5, 1.0), (6, 2.0)]))
    assert [len(line) for line in lines(svg)] == [2, 2]
    assert len(list(svg.iter("circle"))) == 1


def test_sparse_curves_have_dots():
    assert len(list(parsed(Series("a", [(0, 1.0), (5, 2.0)], sparse=True)).iter("circle"))) == 2


def test_fractions_have_percent_ticks():
    assert tick_labels(parsed(Series("a", [(0, 0.0), (10, 1.0)]), unit="percent")) == ["0%", "50%", "100%"]


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-7, 1e30])
def test_a_constant_curve_stays_inside_the_frame(value):
    [line] = lines(parsed(Series("a", [(0, value), (10, value)])))
    assert line[0][1] == line[1][1]
    assert TOP < line[0][1] < HEIGHT - BOTTOM


def test_a_long_curve_is_thinned_to_means():
    points = [(step, float(step % 2)) for step in range(4 * MAX_POINTS)]
    svg = parsed(Series("a", points), last_step=4 * MAX_POINTS)
    [line] = lines(svg)
    assert len(line) == MAX_POINTS
    [curve] = json.loads(svg.get("data-series"))
    assert {point[3] for point in curve["points"]} == {"0.5000"}


def test_the_values_under_the_pointer_are_formatted_for_people():
    [curve] = json.loads(parsed(Series('<a "b">', [(0, 0.25), (1, None)]), unit="percent").get("data-series"))
    assert curve["label"] == '<a "b">'
    assert [[point[0], point[3]] for point in curve["points"]] == [[0, "25.0%"]]


def test_the_last_value_skips_gaps():
    assert Series("a", [(0, 1.0), (1, 2.0), (2, None)]).last == 2.0
    assert Series("a", [(0, None)]).last is None


def test_a_constant_has_one_tick_with_its_value():
    assert tick_labels(parsed(Series("a", [(0, 1.5e-4), (10, 1.5e-4)]))) == ["1.50e-04"]
    assert tick_labels(parsed(Series("a", [(0, 0.01), (10, 0.01 + 1e-10)]))) == ["0.0100"]  # rounding in float32


def test_noise_does_not_fill_the_frame():
    [line] = lines(parsed(Series("a", [(0, 1.0), (5, 1.002), (10, 1.001)])))
    heights = [y for _, y in line]
    assert max(heights) - min(heights) < 0.05 * (HEIGHT - TOP - BOTTOM)


def test_a_share_spans_at_least_ten_points_and_keeps_its_bounds():
    assert tick_labels(parsed(Series("a", [(0, 0.99), (10, 1.0)]), unit="percent"))[-1] == "100%"
    labels = tick_labels(parsed(Series("a", [(0, 0.0), (10, 0.01)]), unit="percent"))
    assert labels == ["0%", "5%", "10%"]


def test_the_smallest_span_of_a_chart_is_kept():
    svg = ElementTree.fromstring(line_chart([Series("a", [(0, 0.0), (9, 1e-9)])], "number", 9, smallest_span=1e-3))
    assert tick_labels(svg) == ["0", "5e-4", "0.001"]


@pytest.mark.parametrize(
    ("low", "high", "last"), [(0.0, 2000.0, "2,000"), (0.0, 1.5e-4, "1.5e-4"), (-2e7, 0.0, "0"), (0.0, 3e7, "3e+07")]
)
def test_ticks_are_short(low, high, last):
    labels = tick_labels(parsed(Series("a", [(0, low), (10, high)])))
    assert labels[-1] == last
    assert max(map(len, labels)) <= 6
