"""Prometheus metrics through Serve, one class for each deployment that has its own.

To be made inside a replica: Serve tags what it finds there with the deployment, the replica and the application.
"""

from __future__ import annotations

from ray.serve import metrics

SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]


class ServeObserver:
    """The ingress's numbers: requests, rejections, retries, and whole seconds from first byte to last."""

    def __init__(self) -> None:
        self._requests = metrics.Counter(
            "raycap_requests",
            description="Requests answered, by route and class of status (2xx ... 5xx).",
            tag_keys=("route", "status"),
        )
        self._rejections = metrics.Counter(
            "raycap_rejections",
            description="Images and requests that got an error, by its code.",
            tag_keys=("code",),
        )
        self._retries = metrics.Counter(
            "raycap_retries", description="Requests handed to another captioner because the first one died."
        )
        self._seconds = metrics.Histogram(
            "raycap_request_seconds",
            description="From the first byte of a request to the last of its answer.",
            boundaries=SECONDS,
            tag_keys=("route",),
        )

    def answered(self, route: str, *, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.inc(tags={"route": route, "status": f"{status // 100}xx"})
        self._seconds.observe(seconds, tags={"route": route})

    def refused(self, code: str) -> None:
        """Count an error."""
        self._rejections.inc(tags={"code": code})

    def retried(self) -> None:
        """Count a retry."""
        self._retries.inc()
