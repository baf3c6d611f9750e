"""A client of raycap's HTTP API: `raycap.Client(url).caption("photo.jpg")`. Needs neither torch nor Ray."""

from __future__ import annotations

from raycap.client.answers import Alternative, Answer, ClientError, ServedModel
from raycap.client.client import Client

__all__ = ["Alternative", "Answer", "Client", "ClientError", "ServedModel"]
