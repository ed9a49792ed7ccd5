"""The physics card of one model, from its record alone: as Markdown, as plain data, and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fgmae_bench.records import Record
from fgmae_bench.report.figures import COLOURS, GRID, PNG_DPI, literal, save

ACROSS = 4  # panels side by side
ASSUMED = ("theta_assumed", "calibration_assumed", "acquisitions_assumed", "looks")
SHOWN = {"angle": "theta_assumed", "calibration": "calibration_assumed", "acquisitions": "acquisitions_assumed"}
SAID = (
    "unvalidated",
    *ASSUMED,
    "despeckler",
    "null",
    "no_null",
    "below_null",
    "train_stress",
    "stress_left_out",
    "one_stratum",
    "no_strata",
)


def is_card(record: Record) -> bool:
    """Whether a record is that of a card."""
    return bool(record.get("stress")) and bool(record["metrics"].get("tolerance"))


def card_data(record: Record) -> dict[str, Any]:
    """The card as plain data: the clean score first, then each stress with its severities, bands and tolerance."""
    tolerances = record["metrics"]["tolerance"]
    first = next(iter(tolerances.values()))
    return {
        "run_id": record["run_id"],
        "model": record["model"]["name"],
        "weights": record["model"]["weights"]["source"],
        "dataset": record["dataset"]["name"],
        "split": record["dataset"]["split"],
        "synthetic": record["dataset"]["synthetic"],
        "protocol": record["protocol"],
        "metric": first["metric"],
        "clean": first["clean"],
        "clean_interval": ((record["metrics"]["intervals"] or {}).get("test") or {}).get(first["metric"]),
        "chance": first["chance"],
        "null": first.get("null", {}).get("clean"),
        "validated": None,  # against a real pair of products; None: simulated only
        "stresses": [_stress(record, name, found) for name, found in tolerances.items()],
        "strata": record["metrics"].get("strata", {}),
        "notes": [note["text"] for note in record["notes"] if note["code"] in SAID],
        "assumed": [note["text"] for note in record["notes"] if note["code"] in ASSUMED],
    }


def _stress(record: Record, name: str, found: dict[str, Any]) -> dict[str, Any]:
    items = [item for item in record["stress"] if item["name"] == name]
    return {
        "name": name,
        "unit": found["unit"],
        "tolerance": {key: found[key] for key in ("value", "censored", "interval", "area", "withheld")},
        "null_tolerance": found.get("null"),
        "budget": found.get("budget"),
        "severities": [
            {"severity": item["severity"], "position": position, "score": item["metrics"][found["metric"]]}
            | {key: item["metrics"].get(key) for key in ("change", "change_interval", "flip_rate")}
            | {key: item["metrics"].get(key) for key in ("beyond_null", "beyond_null_interval")}
            for item, position in zip(items, _positions(found, items), strict=True)
        ],
    }


def _positions(found: dict[str, Any], items: list[dict[str, Any]]) -> list[float]:
    """Where severities stand on the axis; of records that do not say, as they are."""
    return found.get("positions") or [item["severity"] for item in items]


def markdown_card(record: Record) -> str:
    """The card as Markdown: the clean score above, a line a stress, its tolerance with its interval first."""
    card = card_data(record)
    metric = card["metric"]
    mark = "  [synthetic data]" if card["synthetic"] else ""
    null = "" if card["null"] is None else f", backscatter statistics {card['null']:.3f}"
    beside = any("null" in found for found in record["metrics"]["tolerance"].values())
    titles = ["stress", "tolerated", "95 %", "area kept", *(["beyond statistics"] if beside else []), "flips"]
    titles += ["real products differ by", f"{metric} by severity"]
    lines = [
        f"{card['run_id']}  {metric} {card['clean']:.3f} on clean data{mark}",
        f"chance {card['chance']:.3f}{null}; stresses are simulated: unvalidated",
        *(f"assumed: {text}" for text in card["assumed"]),
        "",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
    ]
    lines += ["| " + " | ".join(_cells(each, beside)) + " |" for each in card["stresses"]]
    return "\n".join([*lines, *_strata(card)])


def _strata(card: dict[str, Any]) -> list[str]:
    """Clean scores by stratum as a table, differences on places that two values share below their scores."""
    if not card["strata"]:
        return []
    lines = ["", f"| stratum | samples | units | clean {card['metric']} | 95 % |", "|---|---|---|---|---|"]
    for name, found in card["strata"].items():
        for value, score in found["values"].items():
            units = f"{score['units']} {score['over']}"
            cells = [f"{name}: {literal(value)}", str(score["samples"]), units, _number(score["value"]), _pair(score)]
            lines.append("| " + " | ".join(cells) + " |")
        for pair in found["pairs"]:
            what = f"{name}: {literal(pair['a'])} less {literal(pair['b'])}, same places"
            gap = "" if pair["difference"] is None else f"{pair['difference']:+.3f}"
            lines.append("| " + " | ".join([what, "", f"{pair['places']} places", gap, _pair(pair)]) + " |")
    return lines


def _pair(found: dict[str, Any]) -> str:
    """An interval, or why it is withheld."""
    if found["interval"] is None:
        return f"withheld: {found['withheld']}"
    return " to ".join(f"{end:.3f}" for end in found["interval"])


def _cells(each: dict[str, Any], beside: bool) -> list[str]:
    """The cells of one stress."""
    tolerance, last = each["tolerance"], each["severities"][-1]
    area = "" if tolerance["area"] is None else f"{tolerance['area']:.3f}"
    ruler = f"{each['budget'][0]:g} ({each['budget'][1]})" if each["budget"] else ""
    scores = ", ".join(f"{item['severity']:g}: {_number(item['score'])}" for item in each["severities"])
    more = [_signed(last["beyond_null"], last["beyond_null_interval"])] if beside else []
    return [each["name"], tolerated(each), bounds(each), area, *more, _number(last["flip_rate"]), ruler, scores]


def tolerated(each: dict[str, Any]) -> str:
    """A tolerance in words: `1.1 dB`, `> 3 dB` where it is never reached, or why it is withheld."""
    found = each["tolerance"]
    if found["withheld"]:
        return f"withheld: {found['withheld']}"
    value = _beyond(each) if found["value"] is None else f"{found['value']:.2f}"
    return f"{value} {each['unit']}".rstrip()


def bounds(each: dict[str, Any]) -> str:
    """The interval of a tolerance; a bound that is never reached is the last severity and more."""
    if each["tolerance"]["interval"] is None:
        return ""
    return " to ".join(_beyond(each) if end is None else f"{end:.2f}" for end in each["tolerance"]["interval"])


def _beyond(each: dict[str, Any]) -> str:
    return f"> {each['severities'][-1]['severity']:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None, band: list[float] | None) -> str:
    if value is None:
        return ""
    return f"{value:+.3f}" + ("" if band is None else f" ({band[0]:+.3f} to {band[1]:+.3f})")


def draw_card(record: Record, path: Path) -> None:
    """A panel a stress: score over severity with its paired band, what statistics score, chance, and the tolerance."""
    from matplotlib.figure import Figure

    card = card_data(record)
    shown = card["stresses"]
    columns = min(ACROSS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.4 * rows + 0.8), dpi=PNG_DPI, layout="constrained")
    for i, each in enumerate(shown):
        _panel(figure.add_subplot(rows, columns, i + 1), card, each)
    mark = ", synthetic data" if card["synthetic"] else ""
    title = (
        f"{card['model']} ({card['weights']}) on {card['dataset']}{mark}: {card['metric']} {card['clean']:.3f} clean"
        "; simulated, unvalidated"
    )
    codes = {note["code"] for note in record["notes"]}
    title += "".join(f", {what} assumed" for what, code in SHOWN.items() if code in codes)
    figure.suptitle(literal(title, 150), fontsize=10)
    save(figure, path)


def _panel(axes: Any, card: dict[str, Any], each: dict[str, Any]) -> None:
    """One stress. The horizontal axis is that of the curve's positions; its ticks are severities."""
    levels = each["severities"]
    x = [0.0, *(level["position"] for level in levels)]
    y = [card["clean"], *(math.nan if level["change"] is None else card["clean"] + level["change"] for level in levels)]
    ends = [[card["clean"]] * 2, *(_band(card["clean"], level["change_interval"]) for level in levels)]
    axes.fill_between(x, *zip(*ends, strict=True), color=COLOURS[0], alpha=0.18, linewidth=0)
    axes.plot(x, y, color=COLOURS[0], marker="o", markersize=3, linewidth=1.2)
    if card["null"] is not None and levels[0]["beyond_null"] is not None:
        falls = [
            math.nan if None in (level["change"], level["beyond_null"]) else level["change"] - level["beyond_null"]
            for level in levels
        ]
        axes.plot(
            x, [card["null"], *(card["null"] + fall for fall in falls)], color=COLOURS[1], linestyle="--", linewidth=1
        )
    axes.axhline(card["chance"], color="#666666", linestyle=":", linewidth=0.8)
    at = _at_tolerance(each)
    if at is not None:
        axes.axvline(at, color=COLOURS[2], linewidth=0.9)
    axes.set_xticks(x, _apart(x, ["clean", *(f"{level['severity']:g}" for level in levels)]), fontsize=6)
    axes.tick_params(axis="y", labelsize=6)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_title(literal(f"{each['name']}: {tolerated(each)}", 44), fontsize=7)
    axes.set_xlabel(literal(each["unit"]), fontsize=6)


def _apart(x: list[float], words: list[str]) -> list[str]:
    """The words of ticks, none where it would run into the one before it."""
    kept, last = [words[0]], x[0]
    for at, word in zip(x[1:], words[1:], strict=True):
        free = at - last >= (0.14 if last == x[0] else 0.07) * x[-1]  # `clean` is the longest
        kept.append(word if free else "")
        last = at if free else last
    return kept


def _band(clean: float, interval: list[float] | None) -> list[float]:
    return [math.nan] * 2 if interval is None else [clean + end for end in interval]


def _at_tolerance(each: dict[str, Any]) -> float | None:
    """Where the tolerance stands on the axis of positions, which are linear in severity, or in the power of a level."""
    value, levels = each["tolerance"]["value"], each["severities"]
    if value is None:
        return None
    known = [(level["severity"], level["position"]) for level in levels]
    if all(math.isclose(at, 10 ** (severity / 10)) for severity, at in known):  # a level in dB: clean is no power
        return float(10 ** (value / 10))
    (low, start), (high, end) = known[0], known[-1]
    return float(start + (end - start) * (value - low) / (high - low))
