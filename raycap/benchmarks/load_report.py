"""What became of a load: each request's reply, and the figures over all. Knows nothing of how they were sent."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """What became of one request."""

    index: int
    """Its place in the order of sending; its body is number `index` modulo the number of bodies."""
    due_s: float
    """When it was to be sent, in seconds from the start."""
    latency_s: float
    """From then to the last byte of the last answer, retries and waits between them included."""
    status: int
    """Of the last try; 0 is no answer."""
    retries: int = 0
    answer: Any = None
    """Parsed JSON, or text."""
    retry_after: str = ""
    """That header of the last answer."""
    error: str = ""
    """Why there is no answer."""

    @property
    def done_s(self) -> float:
        """When it was answered, in seconds from the start."""
        return self.due_s + self.latency_s


@dataclass(frozen=True)
class LoadReport:
    """What became of a load."""

    load: dict[str, Any]
    """The settings it was sent with."""
    replies: list[Reply]
    """Of every request that was sent, in the order of sending."""
    elapsed_s: float

    @property
    def good(self) -> list[Reply]:
        """Those with status 200."""
        return [reply for reply in self.replies if reply.status == 200]

    @property
    def throughput(self) -> float:
        """Answers of status 200 a second."""
        return len(self.good) / self.elapsed_s

    @property
    def statuses(self) -> dict[int, int]:
        """How many requests ended with each status."""
        return dict(sorted(Counter(reply.status for reply in self.replies).items()))

    @property
    def errors(self) -> dict[str, int]:
        """How often each reason for no answer came."""
        return dict(Counter(reply.error for reply in self.replies if reply.error))

    @property
    def unsent(self) -> int:
        """Requests for which the time did not suffice."""
        return int(self.load["requests"]) - len(self.replies)

    @property
    def retries(self) -> int:
        """Of all requests."""
        return sum(reply.retries for reply in self.replies)

    @property
    def without_retry_after(self) -> int:
        """Refusals (429, 503) that do not say when to come back."""
        return sum(reply.status in (429, 503) and not reply.retry_after for reply in self.replies)

    def latency_s(
        self, percent: float, *, of: Callable[[Reply], bool] = lambda reply: reply.status == 200
    ) -> float:
        """The latency that this many percent of the chosen replies (the good ones) stay within; NaN without any."""
        chosen = sorted(reply.latency_s for reply in self.replies if of(reply))
        return chosen[max(0, math.ceil(percent / 100 * len(chosen)) - 1)] if chosen else math.nan

    def summary(self) -> dict[str, Any]:
        """The figures, latencies in milliseconds."""
        return {
            "throughput": self.throughput,
            **{f"p{percent}_ms": 1e3 * self.latency_s(percent) for percent in (50, 95, 99)},
            "statuses": self.statuses,
            "errors": self.errors,
            "unsent": self.unsent,
            "retries": self.retries,
            "without_retry_after": self.without_retry_after,
            "elapsed_s": self.elapsed_s,
        }

    def to_json(self) -> str:
        """Everything, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        found = json.loads(text)
        return cls(found["load"], [Reply(**reply) for reply in found["replies"]], found["elapsed_s"])
