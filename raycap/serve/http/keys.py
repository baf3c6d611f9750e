"""API keys: who may use the service at all. Knows digests only, never a key longer than one request takes.

Plain ASGI around the whole app, so that no route, /docs and unknown paths included, is forgotten.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from raycap.config import ConfigError
from raycap.serve.config import KEYS_VARIABLE
from raycap.serve.http.errors import error_answer

MIN_KEY_LENGTH = 16
OPEN_PATHS = ("/healthz", "/readyz")
WAYS = "send an API key as `Authorization: Bearer KEY`, as X-API-Key, or as the password of HTTP Basic"
CHALLENGE = {"WWW-Authenticate": 'Basic realm="raycap", charset="UTF-8", Bearer realm="raycap"'}


def key_digests(environment: Mapping[str, str]) -> list[str]:
    """SHA-256 digests of the keys in an environment, comma separated there; none: the service is open.

    Raises:
        ConfigError: a key that is too short, or that a header cannot carry; or a variable without any.
    """
    keys = [key.strip() for key in environment.get(KEYS_VARIABLE, "").split(",")]
    given = [key for key in keys if key]
    if environment.get(KEYS_VARIABLE) and not given:
        raise ConfigError(f"{KEYS_VARIABLE} is set and has no key in it; leave it out to serve everybody")
    for number, key in enumerate(given, start=1):
        if len(key) < MIN_KEY_LENGTH:
            raise ConfigError(
                f"key {number} in {KEYS_VARIABLE} has {len(key)} characters; a key needs {MIN_KEY_LENGTH} or more"
            )
        if not all("!" <= character <= "~" for character in key):
            raise ConfigError(
                f"key {number} in {KEYS_VARIABLE} must be visible ASCII characters without spaces"
            )
    return [_digest(key.encode()) for key in given]


class Keys:
    """Lets requests with one of the keys pass, and answers 401 to the others."""

    def __init__(self, app: ASGIApp, *, digests: Sequence[str]) -> None:
        self.app = app
        self.digests = tuple(digests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or _path(scope) in OPEN_PATHS or self._knows(scope):
            await self.app(scope, receive, send)
            return
        answer = error_answer(scope, 401, "unauthorized", WAYS, headers=CHALLENGE)
        await answer(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        """Whether the request has a key. Takes as long for a wrong one as for a right one."""
        found = [
            hmac.compare_digest(_digest(key), digest) for key in _presented(scope) for digest in self.digests
        ]
        return any(found)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _path(scope: Scope) -> str:
    """The path below the prefix under which the app is served."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _presented(scope: Scope) -> Iterator[bytes]:
    """The keys in a request's headers."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield value.strip()
        if name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield credentials.strip()
            if scheme.lower() == b"basic":
                yield _password(credentials)


def _password(credentials: bytes) -> bytes:
    """The password in HTTP Basic's base64 of `user:password`; a key no one has where it cannot be read."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
