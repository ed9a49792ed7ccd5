"""Ranks, and how well conditions agree, as sheets; and the critical-difference diagram."""

from __future__ import annotations

import json
import math
from pathlib import Path

from fgmae_bench.metrics.leagues import ENOUGH, LEAST_FOR_IQM, unseparated
from fgmae_bench.metrics.separation import MARGIN
from fgmae_bench.report.agreement import Compared
from fgmae_bench.report.figures import literal, new_axes, save
from fgmae_bench.report.formats.common import EMPTY
from fgmae_bench.report.ranking import Ranked, Ranking, enough
from fgmae_bench.report.sheet import Entry, Heading, Sheet

HEAD = (
    ("model", "model"),
    ("average rank", "average_rank"),
    ("95 % over datasets", "rank_low,rank_high"),
    ("ranks left by tests", "best_rank,worst_rank"),
    ("Elo", "elo"),
    ("95 % of Elo", "elo_low,elo_high"),
    ("IQM", "iqm"),
    ("95 % over runs", "iqm_low,iqm_high"),
    ("first in draws", "first"),
    ("beats the next", "beats_next"),
    (f"equal within {MARGIN:g}", "equal_to"),
)


def file_name(found: Ranking) -> str:
    """Name of the diagram of a ranking."""
    return f"rank-{found.protocol}-critical-difference.png"


def of_ranking(found: Ranking) -> Sheet:
    """A ranking as a sheet; a ranking that there is none of is a title and the reason."""
    title = f"Rank: {found.protocol.replace('_', ' ')}"
    name = f"rank-{found.protocol}"
    notes = tuple(f"Left out: {line}." for line in found.left_out)
    if found.why:
        return Sheet(
            name=name, title=title, sentences=(f"No ranking: {found.why}.",), headings=(), rows=(), notes=notes
        )
    figures = {"critical differences": file_name(found)} if found.league and found.league.friedman else {}
    rows = [_row(model) for model in found.models]
    known = [c for c in range(len(HEAD)) if any(row[c].text != EMPTY for row in rows)]
    heads = [
        Heading(text=text, plain=tuple(plain.split(",")), number=plain not in ("model", "equal_to"))
        for text, plain in HEAD
    ]
    return Sheet(
        name=name,
        title=title,
        sentences=tuple(sentences(found)),
        headings=tuple(heads[c] for c in known),
        rows=tuple(tuple(row[c] for c in known) for row in rows),
        notes=notes,
        figures=figures,
    )


def sentences(found: Ranking) -> list[str]:
    """What a rank rests on, and what it can say."""
    count = len(found.units)
    lines = [f"Over {count} datasets, those cut from the same scenes counting as one: {', '.join(found.units)}."]
    if found.synthetic:
        lines.append("Synthetic data: a rank on generated worlds says nothing about real scenes.")
    if found.tests:
        separated = int(found.apart.above.sum()) if found.apart else 0
        lines.append(
            f"{found.tests} pairs tested over seeds and groups, {separated} separated after Holm. The ranks that tests "
            "leave hold for all models at once at 95 %. Models within one another's are not separated, which does not "
            f"make them equal; equal means within {MARGIN:g} by two one-sided tests."
        )
    else:
        lines.append("No pair was tested on every dataset (run report --separate): the order may be chance.")
    if not enough(found):
        lines.append(f"Elo and critical differences are shown from {ENOUGH} datasets on.")
    elif found.league and found.league.friedman:
        test = found.league.friedman
        lines.append(
            f"Friedman chi-square {test.chi_square:.2f}, p {test.p:.4f}; critical difference of average ranks "
            f"{test.critical:.2f} (Nemenyi, 5 %). Elo is of Bradley-Terry strengths, with datasets drawn again."
        )
    if count < LEAST_FOR_IQM:
        lines.append(f"The interquartile mean is shown from {LEAST_FOR_IQM} datasets on.")
    elif any(model.iqm_bounds for model in found.models):
        lines.append("Intervals of the interquartile mean draw the runs of each dataset again; datasets stay.")
    return lines


def _row(model: Ranked) -> tuple[Entry, ...]:
    def number(value: float | None, form: str) -> Entry:
        return Entry(text=EMPTY if value is None else format(value, form), plain=(value,))

    def pair(ends: tuple[float, float] | None, form: str) -> Entry:
        if ends is None:
            return Entry(plain=(None, None))
        return Entry(text=" to ".join(format(end, form) for end in ends), plain=ends)

    equal = ", ".join(model.equal_to)
    return (
        Entry(text=model.label, plain=(model.label,), number=False),
        number(model.rank, ".2f"),
        pair(model.rank_bounds, ".2f"),
        pair(model.possible, "d"),
        number(model.elo, ".0f"),
        pair(model.elo_bounds, ".0f"),
        number(model.iqm, ".3f"),
        pair(model.iqm_bounds, ".3f"),
        number(model.top, ".0%"),
        number(model.better_than_next, ".2f"),
        Entry(text=equal or EMPTY, plain=(equal,), number=False),
    )


def of_agreement(found: list[Compared]) -> Sheet | None:
    """How well conditions agree, a line a pair of them; None where there is none."""
    if not found:
        return None
    heads = ("kind", "condition", "against", "models", "datasets", "tau-b", "95 % over datasets", "ceiling")
    plain = ("kind", "a", "b", "models", "datasets", "tau", "tau_low,tau_high", "ceiling")
    texts = {"kind", "a", "b", "datasets"}
    return Sheet(
        name="rank-agreement",
        title="Do conditions rank the same models alike",
        sentences=(
            "Kendall's tau-b of the models' mean scores: 1 is the same order, 0 none, -1 the reverse. Intervals draw "
            "the datasets again; one dataset has none. The ceiling is what halves of one condition reach: hold tau "
            "against it, not against 1.",
        ),
        headings=tuple(
            Heading(text=text, plain=tuple(names.split(",")), number=names not in texts)
            for text, names in zip(heads, plain, strict=True)
        ),
        rows=tuple(_line(each) for each in found),
    )


def _line(each: Compared) -> tuple[Entry, ...]:
    titles = ", ".join(_place(unit) for unit in each.units) + (" (synthetic)" if each.synthetic else "")
    known = math.isfinite(each.found.low)
    ends = (each.found.low, each.found.high) if known else (None, None)
    tau = each.found.tau if math.isfinite(each.found.tau) else None
    ceiling = each.found.ceiling
    return (
        *(Entry(text=text, plain=(text,), number=False) for text in (each.kind, each.a, each.b)),
        Entry(text=str(each.models), plain=(each.models,)),
        Entry(text=titles, plain=(titles,), number=False),
        Entry(text=EMPTY if tau is None else f"{tau:.2f}", plain=(tau,)),
        Entry(text=f"{each.found.low:.2f} to {each.found.high:.2f}" if known else EMPTY, plain=ends),
        Entry(text=EMPTY if ceiling is None else f"{ceiling:.2f}", plain=(ceiling,)),
    )


def _place(unit: str) -> str:
    """The title of a dataset of the agreement, with its split where that is not what is compared."""
    if not unit.startswith("["):
        return unit
    title, facts = json.loads(unit)
    return f"{title} ({facts['split']})" if facts.get("split") else str(title)


def draw_critical(found: Ranking, path: Path) -> None:
    """The critical-difference diagram: average ranks on one axis, bars over those that it does not separate."""
    assert found.league is not None
    assert found.league.friedman is not None
    ranks, critical = [model.rank for model in found.models], found.league.friedman.critical
    count = len(ranks)
    figure, axes = new_axes(9, 1.6 + 0.32 * count)
    for i, model in enumerate(found.models):
        y = -1.0 - i
        axes.plot([model.rank, model.rank], [0, y], color="#666666", linewidth=0.8)
        axes.plot([model.rank], [0], marker="o", color="#0072B2", markersize=4)
        axes.text(model.rank, y, f"  {literal(model.label)}  {model.rank:.2f}", va="center", fontsize=8)
    for level, (first, last) in enumerate(unseparated(found.league.rank, critical)):
        y = 0.35 + 0.3 * level
        axes.plot([ranks[first] - 0.03, ranks[last] + 0.03], [y, y], color="#D55E00", linewidth=3)
    axes.set_yticks([])
    axes.set_xlim(0.8, count + 0.6)
    axes.set_xlabel("average rank, 1 is best")
    axes.set_title(
        literal(
            f"{found.protocol}, {len(found.units)} datasets: bars join what differs by less than {critical:.2f}", 90
        ),
        fontsize=10,
    )
    save(figure, path)
