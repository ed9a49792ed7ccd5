"""Table and figure of decode heads side by side: scores with intervals over scenes, time, size and operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.ablate.matrix import shown
from fgmae_bench.ablate.tables import heading, link, setting, write_table
from fgmae_bench.config.cards import Card
from fgmae_bench.metrics import table
from fgmae_bench.metrics.ranks import kendall_tau_b
from fgmae_bench.metrics.statistics import Confusion
from fgmae_bench.records import Record
from fgmae_bench.report.figures import PNG_DPI, literal, save
from fgmae_bench.report.formats.markdown import escaped, line
from fgmae_bench.report.predictions import find_predictions, read_predictions
from fgmae_bench.system.randomness import generator

MODELS_FOR_AN_INTERVAL = 8  # encoders; a tau of fewer is shown as a point
DRAWS, LEVEL = 1000, 0.95


@dataclass(frozen=True, kw_only=True)
class HeadAgreement:
    """tau-b of the rankings by two heads; `interval` is None where there are too few encoders, or scenes."""

    heads: tuple[str, str]
    tau: float
    interval: tuple[float, float] | None


def miou(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU (...) of confusions (..., K, K or K + 1) over the classes that have reference pixels."""
    *lead, classes, columns = confusions.shape
    return table.miou(Confusion(confusions.reshape(-1, classes, columns))).reshape(lead)


def agreements(confusions: dict[str, NDArray[np.float64]], seed: int = 0) -> list[HeadAgreement]:
    """tau-b of each pair of heads; `confusions` by head are (M encoders, N scenes, K, C), the same scenes for all.

    The interval draws scenes with replacement and ranks the encoders anew, 95 %, where there are eight encoders or
    more and two scenes.
    """
    (models, scenes) = next(iter(confusions.values())).shape[:2]
    whole = {head: miou(each.sum(1)) for head, each in confusions.items()}
    drawn: dict[str, NDArray[np.float64]] = {}
    if models >= MODELS_FOR_AN_INTERVAL and scenes > 1:
        rows = generator(seed, "heads", scenes).integers(0, scenes, (DRAWS, scenes))
        counts = np.stack([np.bincount(row, minlength=scenes) for row in rows]).astype(np.float64)  # (draws, N)
        drawn = {head: miou(np.einsum("dn,mnij->dmij", counts, each)) for head, each in confusions.items()}
    found = []
    for pair in combinations(confusions, 2):
        interval = None
        if drawn:
            taus = [kendall_tau_b(a, b) for a, b in zip(*(drawn[head] for head in pair), strict=True)]
            low, high = np.nanquantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            interval = float(low), float(high)
        found.append(HeadAgreement(heads=pair, tau=kendall_tau_b(*(whole[head] for head in pair)), interval=interval))
    return found


def by_group(confusions: NDArray[np.float64], groups: Sequence[str] | None) -> NDArray[np.float64]:
    """Confusions (N, K, C) of images summed by their group, in the order of names; images stay where there are none."""
    if groups is None:
        return confusions.astype(np.float64)
    names = sorted(set(groups))
    places = np.array([names.index(group) for group in groups])
    total = np.zeros((len(names), *confusions.shape[1:]))
    np.add.at(total, places, confusions)
    return total


Records = dict[tuple[str, str], Record]  # by (encoder, head)
COLUMNS = {
    "encoder": "encoder",
    "head": "head",
    "miou": "mIoU",
    "low": "from",
    "high": "to",
    "oa": "OA",
    "params_head": "parameters trained",
    "gflops": "GFLOPs an image",
    "images_per_second": "images/s in training",
    "train_seconds": "training, s",
    "eval_seconds": "evaluation, s",
    "run_id": "run",
}
MEANING = (
    "Decode heads on one frozen encoder, whose maps were computed once. mIoU over the classes that have reference "
    "pixels, its 95 % interval over {groups}. GFLOPs are those of backbone and head on one input, a multiplication "
    "and an addition counted each; images/s are those of the head alone, from the stored maps, on {device}."
)


def row_of(encoder: str, head: str, record: Record) -> dict[str, Any]:
    """A line of the table."""
    test, timing, cost = record["metrics"]["test"], record["timing"], record.get("cost") or {}
    low, high = ((record["metrics"]["intervals"] or {}).get("test") or {}).get("miou") or (None, None)
    return {
        "encoder": encoder,
        "head": head,
        "miou": test.get("miou"),
        "low": low,
        "high": high,
        "oa": test.get("oa"),
        "params_head": record["model"]["params_trainable"],
        "gflops": cost.get("gflops"),
        "images_per_second": timing["images_per_second"],
        "train_seconds": timing["train_seconds"],
        "eval_seconds": timing["eval_seconds"],
        "run_id": record["run_id"],
    }


def rows_of(records: Records) -> list[dict[str, Any]]:
    """The lines of the table, in the order of the runs."""
    return [row_of(encoder, head, record) for (encoder, head), record in records.items()]


def line_of(encoder: str, head: str, record: Record) -> str:
    """What is said of a run on screen."""
    row = row_of(encoder, head, record)
    mark = "  [synthetic data]" if record["dataset"]["synthetic"] else ""
    if record["status"] == "diverged":
        return f"  {encoder:<20}{head:<18}diverged{mark}"
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    seconds = f"{row['train_seconds']:.1f} s training, {row['eval_seconds']:.1f} s evaluation"
    return f"  {encoder:<20}{head:<18}mIoU {shown(row['miou'])}{interval}  {seconds}  {row['run_id']}{mark}"


def agreement_of(records: Records) -> list[dict[str, Any]]:
    """tau-b of each pair of heads, with its words; nothing of a single encoder. Raises BenchError where the stored
    confusions of a run are not there, or not as they were stored.
    """
    encoders, heads = (list(dict.fromkeys(key[i] for key in records)) for i in (0, 1))
    if len(encoders) < 2 or len(heads) < 2:
        return []
    held = {head: np.stack([_scenes(records[encoder, head]) for encoder in encoders]) for head in heads}
    return [{"heads": each.heads, "tau": each.tau, "text": _words(each)} for each in agreements(held)]


def _scenes(record: Record) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Confusions (scenes, K, C) of a recorded run's test split."""
    results = Path(record["config"]["execution"]["results_dir"]).expanduser()
    held = read_predictions(record, find_predictions(record, results))
    return by_group(held.scores, held.groups)


def _words(each: HeadAgreement) -> str:
    if each.interval is None:
        return shown(each.tau)
    low, high = each.interval
    return f"{shown(each.tau)} [{low:.2f}, {high:.2f}]"


def write_heads(
    rows: list[dict[str, Any]], agreed: list[dict[str, Any]], card: Card, records: Records, stem: Path, figure: Path
) -> list[Path]:
    """Write the table as Markdown and CSV; the paths."""
    first = next(iter(records.values()))
    kind = ((first["dataset"].get("groups") or {}).get("kind")) or "images"
    lines = heading(f"Decode heads on {card.title}", bool(first["dataset"]["synthetic"]))
    lines += [MEANING.format(groups=kind, device=first["environment"]["device_name"]), "", setting(first), ""]
    lines += [line(list(COLUMNS.values())), line(["---"] * len(COLUMNS))]
    lines += [line([escaped(_cell(name, row[name])) for name in COLUMNS]) for row in rows]
    if agreed:
        few = "" if "[" in agreed[0]["text"] else f", points only: fewer than {MODELS_FOR_AN_INTERVAL} encoders"
        lines += ["", "## Rankings of the encoders", "", f"Kendall's tau-b of mIoU between heads{few}."]
        lines += ["", line(["heads", "tau-b"]), line(["---"] * 2)]
        lines += [line([escaped(" and ".join(each["heads"])), each["text"]]) for each in agreed]
    lines += ["", f"![heads]({link(figure, stem)})", ""]
    return write_table(stem, lines, rows)


def _cell(name: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if name in ("miou", "low", "high", "oa") else f"{value:.1f}"


def draw_heads(rows: list[dict[str, Any]], card: Card, path: Path) -> None:
    """mIoU of each head with its interval, one colour an encoder."""
    from matplotlib.figure import Figure

    heads = list(dict.fromkeys(row["head"] for row in rows))
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    figure = Figure(figsize=(7, 1.5 + 0.3 * len(heads) * max(1, len(encoders) / 2)), dpi=PNG_DPI, layout="constrained")
    axes = figure.add_subplot()
    for i, encoder in enumerate(encoders):
        held = [row for row in rows if row["encoder"] == encoder and row["miou"] is not None]
        places = [heads.index(row["head"]) + 0.6 * (i + 0.5) / len(encoders) - 0.3 for row in held]
        axes.plot([row["miou"] for row in held], places, "o", color=f"C{i}", label=literal(encoder, 40))
        for row, place in zip(held, places, strict=True):
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [place, place], color=f"C{i}")
    axes.set_yticks(range(len(heads)), heads)
    axes.invert_yaxis()
    axes.set_xlabel("mIoU, with its 95 % interval")
    axes.set_title(literal(f"Decode heads on {card.title}", 80), fontsize=10)
    if len(encoders) > 1:
        axes.legend(fontsize=7)
    save(figure, path)
