"""How much an ingress has in hand, and whether it takes more: so that it neither drowns nor is stopped too early.

Serve kills its proxies as soon as it is told to shut down, whatever they have in hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raycap.serve.http.errors import ApiError


class Door:
    """Counts the requests inside and the bytes of their bodies. Is closed once and for all."""

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.closed = False
        """Requests that come now are refused."""
        self.inside = 0
        """Requests that came before and are not answered yet."""
        self.bytes = 0
        """Of their bodies, as far as they have come."""

    @contextmanager
    def entered(self) -> Iterator[Visit]:
        """A request is inside."""
        visit = Visit(self)
        self.inside += 1
        try:
            yield visit
        finally:
            self.inside -= 1
            self.bytes -= visit.bytes


class Visit:
    """What one request has brought."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.bytes = 0

    def bring(self, count: int) -> None:
        """More bytes of the body.

        Raises:
            ApiError: 429, all bodies together would be more than the ingress holds.
        """
        if self.door.bytes + count > self.door.max_bytes:
            raise ApiError(429, "overloaded", "too many large requests wait; try again", retry_after_s=1)
        self.door.bytes += count
        self.bytes += count
