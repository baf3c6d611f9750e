"""Where a rank's wall-clock time goes, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by phase; a phase inside another counts for itself alone. It starts in the phase `loading`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self.running = "loading"
        self.since = clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count for `name` until the block ends, then for what ran before."""
        before = self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def take(self) -> dict[str, float]:
        """Seconds since this was last called: loading_s, training_s, validation_s, checkpoint_s."""
        self._switch(self.running)
        taken, self.seconds = self.seconds, {}
        return {f"{name}_s": round(seconds, 3) for name, seconds in taken.items()}

    def _switch(self, name: str) -> str:
        now = self.clock()
        self.seconds[self.running] = self.seconds.get(self.running, 0.0) + now - self.since
        before, self.running, self.since = self.running, name, now
        return before
