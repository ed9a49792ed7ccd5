"""The card of one model as a Markdown table: score by severity, tolerance, and what real products differ by."""

from __future__ import annotations

from typing import Any

from fgmae_bench.records import Record
from fgmae_bench.views.stress_table import STRESSES


def table(record: Record) -> str:
    """The card of a stress record: one line a stress, its tolerance with its interval first."""
    tolerances = record["metrics"]["tolerance"]
    metric = next(iter(tolerances.values()))["metric"]
    clean = record["metrics"]["test"][metric]
    mark = "  [synthetic data]" if record["dataset"]["synthetic"] else ""
    lines = [
        f"{record['run_id']}  {metric} {clean:.3f} on clean data{mark}",
        "",
        f"| stress | tolerated | 95 % | area kept | real products differ by | {metric} by severity |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in tolerances.items():
        items = [item for item in record["stress"] if item["name"] == name]
        scores = ", ".join(f"{item['severity']:g}: {item['metrics'][metric]:.3f}" for item in items)
        budget = STRESSES[name].budget if name in STRESSES else None
        ruler = f"{budget[0]:g} ({budget[1]})" if budget else ""
        area = "" if found["area"] is None else f"{found['area']:.3f}"
        lines.append(f"| {name} | {tolerated(found, items)} | {bounds(found, items)} | {area} | {ruler} | {scores} |")
    return "\n".join(lines)


def tolerated(found: dict[str, Any], items: list[dict[str, Any]]) -> str:
    """A tolerance in words: `1.1 dB`, `> 3 dB` where it is never reached, or why it is withheld."""
    if found["withheld"]:
        return f"withheld: {found['withheld']}"
    value = _beyond(items) if found["value"] is None else f"{found['value']:.2f}"
    return f"{value} {found['unit']}".rstrip()


def bounds(found: dict[str, Any], items: list[dict[str, Any]]) -> str:
    """The interval of a tolerance; a bound that is never reached is the last severity and more."""
    if found["interval"] is None:
        return ""
    return " to ".join(_beyond(items) if end is None else f"{end:.2f}" for end in found["interval"])


def _beyond(items: list[dict[str, Any]]) -> str:
    return f"> {items[-1]['severity']:g}"
