"""The board: the pivots of all tables, what paired tests say of them, ranks, and how well conditions agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.records import Record
from fgmae_bench.report import cost_pictures, rank_sheets, tested
from fgmae_bench.report.agreement import Compared, compared
from fgmae_bench.report.pivot import Pivot
from fgmae_bench.report.pivots import pivots
from fgmae_bench.report.ranking import Ranking, ranking
from fgmae_bench.report.row import Table
from fgmae_bench.report.sheet import Sheet, of_pivot
from fgmae_bench.report.tested import Known, with_tests


@dataclass(frozen=True, kw_only=True)
class Board:
    """Pivots with their tests, a ranking (or why there is none) of each, and the agreement of conditions."""

    pivots: tuple[Pivot, ...]
    rankings: tuple[Ranking, ...]
    compared: tuple[Compared, ...]

    def sheets(self) -> list[Sheet]:
        """All of it as sheets: pivots, ranks that exist, agreement."""
        found = [of_pivot(pivot, cost_pictures.available(pivot)) for pivot in self.pivots]
        found += [rank_sheets.of_ranking(each) for each in self.rankings if not each.why]
        last = rank_sheets.of_agreement(list(self.compared))
        return [*found, *([last] if last else [])]

    def unranked(self) -> list[str]:
        """A sentence for each protocol that has no ranking."""
        return [f"No ranking of {each.protocol.replace('_', ' ')}: {each.why}." for each in self.rankings if each.why]

    def draw(self, folder: Path) -> list[Path]:
        """Draw the pictures of the sheets; returns the paths of the PNG files."""
        drawn = []
        for each in self.rankings:
            if each.league is not None and each.league.friedman is not None:
                drawn.append(folder / rank_sheets.file_name(each))
                rank_sheets.draw_critical(each, drawn[-1])
        for pivot in self.pivots:
            for file in cost_pictures.available(pivot).values():
                drawn.append(folder / file)
                cost_pictures.draw(pivot, drawn[-1])
        return drawn


def board(tables: Iterable[Table], records: Iterable[Record], known: Known) -> Board:
    """The board of tables, with the tested pairs that are known."""
    held = [with_tests(pivot, known) for pivot in pivots(tables)]
    return Board(
        pivots=tuple(held),
        rankings=tuple(ranking(pivot, known) for pivot in held),
        compared=tuple(compared(held, records)),
    )


def make_tests(tables: Iterable[Table], results_dir: Path) -> tuple[Path, list[str]]:
    """Test the pairs of every pivot on the stored predictions and keep them; (file, what could not be tested)."""
    text, lines = tested.separated(pivots(tables), results_dir)
    return tested.write(text, results_dir), lines
