"""A clock that a test turns: what takes long is not waited for, and a busy machine changes nothing."""

from __future__ import annotations


class Clock:
    """Stands in for the module `time` of a module: every look at the clock is `step` seconds after the one before."""

    def __init__(self, step: float = 0.0):
        self.now, self.step, self.slept = 0.0, step, []

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
