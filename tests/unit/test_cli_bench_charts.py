"""Charts are well-formed, bounded SVG that shows every value; results become files."""

import json
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from cluster.bench import charts, plots
from cluster.bench.charts import Bar, Series

SVG = "{http://www.w3.org/2000/svg}"


def texts(chart):
    return [one.text for one in ET.fromstring(chart).iter(f"{SVG}text")]


def test_a_line_chart_names_its_axes_and_labels_its_lines_directly():
    chart = charts.line_chart(
        "Title", "buyers", "orders per second", [Series("a", [(1, 10.0), (64, 250.0)])], log_x=True
    )
    shown = texts(chart)
    assert {"Title", "buyers", "orders per second", "a 250", "1", "64"} <= set(shown)


def test_points_stay_within_the_frame():
    series = [Series("a", [(10_000, 1.0), (1_000_000, 1.13)]), Series("b", [(10_000, 1.0), (1_000_000, 0.2)])]
    chart = charts.line_chart("t", "x", "y", series, log_x=True)
    for circle in ET.fromstring(chart).iter(f"{SVG}circle"):
        assert charts.LEFT <= float(circle.get("cx")) <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= float(circle.get("cy")) <= charts.HEIGHT - charts.BOTTOM


def test_labels_of_lines_that_end_together_do_not_meet():
    series = [Series(name, [(1, 5.0), (2, 5.0)]) for name in "abcd"]
    root = ET.fromstring(charts.line_chart("t", "x", "y", series))
    places = sorted(float(one.get("y")) for one in root.iter(f"{SVG}text") if (one.text or "")[0] in "abcd")
    assert all(later - earlier >= 14 for earlier, later in pairwise(places))


def test_a_single_point_is_drawn():
    assert "a 3" in texts(charts.line_chart("t", "x", "y", [Series("a", [(16, 3.0)])], log_x=True))


def test_bars_on_a_logarithmic_scale_differ_by_their_powers():
    bars = [Bar("grains", 400_000.0, "400k"), Bar("actors", 20.0, "20")]
    chart = charts.bar_chart("t", "orders", bars, log=True)
    widths = [float(one.get("width")) for one in ET.fromstring(chart).iter(f"{SVG}rect")]
    assert widths[0] / widths[1] == pytest.approx(5.3, abs=0.1)
    assert "orders (logarithmic scale)" in texts(chart)


def test_text_is_escaped():
    assert "a <b> & c" in texts(charts.bar_chart("a <b> & c", "x", [Bar("b", 1.0, "1")]))


def test_nothing_is_no_chart():
    with pytest.raises(ValueError, match="needs values"):
        charts.line_chart("t", "x", "y", [Series("a", [])])
    with pytest.raises(ValueError, match="needs values"):
        charts.bar_chart("t", "x", [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (12.345, "12.3"),
        (250.0, "250"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (1e6, "1M"),
    ],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text


TIMES = {"p50_ms": 10.0, "p95_ms": 20.0, "p99_ms": 30.0}


def point(per_s, **workload):
    return {
        "workload": workload,
        "per_s": per_s,
        "purchase": TIMES,
        "cpu_ms_per_op": {"ingress": 3.0, "weed": 0.001, "postgres": None},
        "cpu_ms_per_op_total": 3.0,
        **TIMES,
    }


def test_a_curve_gets_its_charts_and_a_result_lies_beside_them(tmp_path):
    result = {
        "bench": "http",
        **point(20.0, buyers=4),
        "curve": [point(10.0, buyers=1), point(20.0, buyers=4)],
        "half_load": point(10.0, arrivals_per_s=10.0),
        "overload": point(19.0, arrivals_per_s=40.0) | {"p95_ms": None},
    }
    files = plots.write(tmp_path / "out", result)
    assert {file.name for file in files} == {
        "http.json",
        "http-cpu.svg",
        "http-throughput.svg",
        "http-latency.svg",
        "http-overload.svg",
    }
    assert json.loads(files[0].read_text()) == result
    assert "weed" not in (tmp_path / "out/http-cpu.svg").read_text()


def test_a_single_figure_has_no_curve():
    assert set(plots.charts_of({"bench": "http", **point(20.0, buyers=4)})) == {"cpu"}


def test_grains_without_their_comparison_are_drawn_alone():
    chart = plots.charts_of({"bench": "grains", "orders_per_gib": 400_000})["memory"]
    assert "400k orders" in texts(chart)
    assert "one Ray actor each" not in texts(chart)


def test_recovery_is_drawn():
    result = {
        "bench": "recovery",
        "under_way_at_kill": 180,
        "all_delivered_after_s": 4.0,
        "replaced_after_s": 9.5,
    }
    assert {"9.5 s", "4.0 s"} <= set(texts(plots.charts_of(result)["time"]))
