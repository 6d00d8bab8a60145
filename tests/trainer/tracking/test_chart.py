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
