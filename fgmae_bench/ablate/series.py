"""The mistakes of published runs as a series: which there are, what repairs each, what each step measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fgmae_bench.errors import BenchError, closest
from fgmae_bench.metrics.segmentation import METRICS
from fgmae_bench.records import Record

# Mistake -> what its repair is called, in the order in which they are repaired. Labels come first: while evaluation is
# mapped twice no other repair can be seen. The training labels come last: they are not a mistake of the code, but what
# it was put down to.
REPAIRS = {
    "double_mapped": "labels mapped once",
    "extra_output": "outputs from the scheme",
    "frozen_output": "no frozen random layer",
    "random_position": "position embeddings of the weights",
    "clip25": "normaliser of the backbone",
    "no_augmentation": "augmentation",
    "coarse_labels": "trained on the labels that are scored",
}
START = "as published"


def repair_order(wanted: Sequence[str] | None, possible: Sequence[str]) -> list[str]:
    """The mistakes in the order of their repair; raises BenchError unless `wanted` names each possible one once."""
    if wanted is None:
        return list(possible)
    for name in wanted:
        if name not in REPAIRS:
            raise BenchError(f"unknown mistake '{name}'", closest(name, REPAIRS))
    if sorted(wanted) != sorted(possible):
        raise BenchError(f"--order names {' '.join(wanted)}", f"name each of these once: {' '.join(possible)}")
    return list(wanted)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Records of the start and after each repair, and what a perfect predictor reaches with the labels of each."""

    dataset: str  # its title
    order: tuple[str, ...]
    records: tuple[Record, ...]
    perfect: tuple[float | None, ...]
    synthetic: bool

    @property
    def title(self) -> str:
        """What table and figure are headed with."""
        return f"Mistakes repaired one after the other on {self.dataset}" + (
            " (synthetic data)" if self.synthetic else ""
        )

    def explained(self) -> list[str]:
        """What the start is, and what gains mean."""
        known = [name for name in REPAIRS if name in self.order]
        random = self.records[-1]["model"]["weights"]["source"] == "random" and "random_position" in known
        more = " The weights are random: so are the position embeddings that are repaired." if random else ""
        return [
            f"The first row makes {len(known)} mistakes at once: {', '.join(known)}. Each further row "
            "repairs one more and stays repaired; "
            "its gain is what it adds after those above it, and would be another in another order. mIoU "
            "over the classes that have "
            "reference pixels; a perfect predictor gives each test pixel what its training labels would "
            "have taught. One run a step: a "
            f"small gain may be no more than what another seed gives.{more}"
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a step."""
        found: list[dict[str, Any]] = []
        before: float | None = None
        for step, record, perfect in zip((START, *self.order), self.records, self.perfect, strict=True):
            scores = record["metrics"]["test"]
            miou = scores.get("miou")
            found.append(
                {
                    "step": REPAIRS.get(step, step),
                    "repairs": step if step in REPAIRS else None,
                    **{metric: scores.get(metric) for metric in METRICS},
                    "gain": miou - before if miou is not None and before is not None else None,
                    "perfect_miou": perfect,
                    "run_id": record["run_id"],
                    "status": record["status"],
                    "synthetic": self.synthetic,
                }
            )
            before = miou
        return found
