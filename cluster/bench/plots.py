"""Which charts show a benchmark's result, and how both are written to a directory.

A result is what the command prints. ``write`` keeps it as ``NAME.json`` beside ``NAME-….svg``, so that a
chart can always be traced to its figures. Refuses to draw what a result does not hold: the chart is left out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.bench.charts import Bar, Series, bar_chart, line_chart, number


def write(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Write a result and its charts into ``folder``, making it if need be; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    name = result["bench"]
    files = {f"{name}.json": json.dumps(result, indent=1, sort_keys=True) + "\n"}
    files |= {f"{name}-{chart}.svg": text for chart, text in charts_of(result).items()}
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in files]


def charts_of(result: dict[str, Any]) -> dict[str, str]:
    """Return the charts of a result by name."""
    draw: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {
        "http": _http,
        "grains": _grains,
        "growth": _growth,
        "deliver": _deliver,
        "recovery": _recovery,
    }
    return draw[result["bench"]](result)


def _http(result: dict[str, Any]) -> dict[str, str]:
    charts = {"cpu": _cpu(result)}
    curve = result.get("curve", [])
    if curve:
        charts |= _curve(curve)
    if "overload" in result:
        charts["overload"] = _overload(result)
    return charts


def _curve(curve: list[dict[str, Any]]) -> dict[str, str]:
    buyers = [point["workload"]["buyers"] for point in curve]

    def series(label: str, key: str, part: str = "purchase") -> Series:
        return Series(
            label,
            [(x, point[part][key]) for x, point in zip(buyers, curve, strict=True) if point[part][key]],
        )

    rates = Series("", [(x, point["per_s"]) for x, point in zip(buyers, curve, strict=True)])
    return {
        "throughput": line_chart(
            "Delivered orders by concurrent buyers", "buyers", "orders per second", [rates], log_x=True
        ),
        "latency": line_chart(
            "From the order to the news of its delivery",
            *("buyers", "milliseconds"),
            [series("p50", "p50_ms"), series("p95", "p95_ms"), series("p99", "p99_ms")],
            log_x=True,
        ),
    }


def _cpu(result: dict[str, Any]) -> str:
    spent = sorted(
        ((group, value) for group, value in result["cpu_ms_per_op"].items() if value and value >= 0.01),  # noqa: PLR2004 - a bar one can see
        key=lambda one: -one[1],
    )
    return bar_chart(
        f"CPU time of one order: {result['cpu_ms_per_op_total']} ms in all",
        "milliseconds of CPU per delivered order",
        [Bar(group.replace("_", " "), value, f"{value:.2f} ms") for group, value in spent],
    )


def _overload(result: dict[str, Any]) -> str:
    bars = []
    for name, label in (("half_load", "half"), ("overload", "twice")):
        point = result[name]
        arrivals = point["workload"]["arrivals_per_s"]
        bars.append(
            Bar(
                f"{label} the load: {arrivals:.0f}/s",
                point["per_s"],
                f"{point['per_s']:.0f}/s delivered, p95 {point['p95_ms']:.0f} ms"
                if point["p95_ms"] is not None
                else "none delivered",
            )
        )
    return bar_chart("Fixed arrival rates", "delivered orders per second", bars)


def _grains(result: dict[str, Any]) -> dict[str, str]:
    per_gib = result["orders_per_gib"]
    bars = [Bar("grains", per_gib, f"{number(per_gib)} orders")]
    if "baseline" in result:
        actors = result["baseline"]["orders_per_gib"]
        bars.append(Bar("one Ray actor each", actors, f"{number(actors)} orders"))
    return {
        "memory": bar_chart("Live orders in one gibibyte", "orders per GiB of added memory", bars, log=True)
    }


def _growth(result: dict[str, Any]) -> dict[str, str]:
    sizes = result["sizes"]
    x = [size["orders"] for size in sizes]

    def series(label: str, values: list[float]) -> Series:
        return Series(label, list(zip(x, values, strict=True)))

    reads = [
        series(label, [size["reads"][name]["p95_ms"] for size in sizes])
        for name, label in (
            ("load", "load"),
            ("list_page", "list page"),
            ("events_since", "events since"),
            ("claim_effects", "claim effects"),
        )
    ]
    return {
        "cost": line_chart(
            "Cost of a new order against that in the smallest database",
            *("orders in the database", "times the cost"),
            [
                series("time", [size["cost_ratio"] for size in sizes]),
                series("server CPU", [size["server_cpu_ratio"] for size in sizes]),
            ],
            log_x=True,
        ),
        "reads": line_chart(
            "Reads, 95th percentile", "orders in the database", "milliseconds", reads, log_x=True
        ),
    }


def _deliver(result: dict[str, Any]) -> dict[str, str]:
    bars = [
        Bar(f"{size['bundle_bytes'] / 1e6:.0f} MB", size["paid_to_delivered"]["p50_ms"], f"p50 {text} ms")
        for size in (result["small"], result["large"])
        if (text := size["paid_to_delivered"]["p50_ms"]) is not None
    ]
    return {"time": bar_chart("From paid to delivered, by the bundle's size", "milliseconds", bars)}


def _recovery(result: dict[str, Any]) -> dict[str, str]:
    bars = [
        Bar(label, result[key], f"{result[key]:.1f} s")
        for key, label in (
            ("all_delivered_after_s", "every order delivered"),
            ("replaced_after_s", "replica replaced"),
        )
    ]
    title = f"After kill -9 with {result['under_way_at_kill']} orders under way"
    return {"time": bar_chart(title, "seconds since the kill", bars)}
