"""How far a long command is, and the time left, on stderr: a bar on a terminal, a line at times in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_S = 10.0


@contextmanager
def progress(description: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items just finished."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield LoggedProgress(description, total=total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(description, total=total)
        yield lambda count: bars.advance(task, count)


class LoggedProgress:
    """One line when it began, one every ten seconds, one at the end."""

    def __init__(self, description: str, *, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.description, self.total, self.clock = description, total, clock
        self.done = 0
        self.started = self.written = clock()

    def __call__(self, count: int) -> None:
        """Count finished items."""
        self.done += count
        now = self.clock()
        if self.done >= self.total or now - self.written >= LOG_EVERY_S:
            self.written = now
            say(self.line(now - self.started))

    def line(self, elapsed_s: float) -> str:
        """What is done, and the time left at the rate so far."""
        done = f"{self.description}: {self.done:,} of {self.total:,}"
        if self.done >= self.total:
            return f"{done} in {clock_time(elapsed_s)}"
        return f"{done}, {clock_time(elapsed_s / max(self.done, 1) * (self.total - self.done))} left"


def clock_time(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def say(line: str) -> None:
    """A line for the reader; stdout is kept for results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
