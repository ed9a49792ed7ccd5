"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

log = logging.getLogger("fgmae_bench")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts `total` things of `label`; quiet on ranks other than 0."""

    def __init__(self, label: str, total: int, unit: str, show: bool = True):
        from tqdm import tqdm

        self.label, self.total, self.unit, self.show = label, total, unit, show
        self.done, self.started = 0, time.monotonic()
        self.last_line = self.started
        terminal = show and sys.stderr.isatty()
        self.bar = tqdm(desc=label, total=total, unit=unit, leave=False) if terminal else None

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.show and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            rate = self.done / (self.last_line - self.started)
            log.info("%s: %d of %d %s, %.1f/s", self.label, self.done, self.total, self.unit, rate)

    def __enter__(self) -> Progress:
        """Start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
