"""What the ingress tells about its work, so that the app runs with metrics and, in tests, without."""

from __future__ import annotations

from typing import Protocol

from starlette.types import Scope


class Observer(Protocol):
    """Is told of every request."""

    def answered(self, route: str, *, status: int, seconds: float) -> None:
        """A request ended. `route` is one of the app's own paths or "unknown"; status 499: its client hung up."""

    def refused(self, code: str) -> None:
        """An image or a request got an error instead of a caption."""

    def retried(self) -> None:
        """A request was handed to another captioner because the first one died."""


class Unobserved:
    """Keeps nothing."""

    def answered(self, route: str, *, status: int, seconds: float) -> None:
        """Nothing to do."""

    def refused(self, code: str) -> None:
        """Nothing to do."""

    def retried(self) -> None:
        """Nothing to do."""


def observer_of(scope: Scope) -> Observer:
    """The observer of the app that handles a request."""
    found: Observer = scope["app"].state.observer
    return found
