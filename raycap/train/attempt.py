"""Which attempt a folder belongs to: the newest. Earlier ones that still run see it and stop."""

from __future__ import annotations

import uuid

from raycap import storage

ATTEMPT = "attempt.json"


def take_over(folder: str) -> str:
    """From now on a run's or a sweep's folder belongs to the attempt whose name is returned."""
    attempt = uuid.uuid4().hex
    storage.write_json(storage.join(folder, ATTEMPT), {"attempt": attempt})
    return attempt


def is_current(folder: str, attempt: str) -> bool:
    """Whether no later attempt has taken over."""
    return bool(storage.read_json(storage.join(folder, ATTEMPT))["attempt"] == attempt)
