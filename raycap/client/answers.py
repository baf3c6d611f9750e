"""What a server says, as Python values, and what goes wrong. Knows no HTTP library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


class ClientError(Exception):
    """No captions: why, in the server's own sentence where it gave one."""

    def __init__(self, code: str, message: str, *, status: int = 0, request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        """For programs: the server's, or unreachable, broken_off, deadline or bad_answer."""
        self.status = status
        """Of HTTP; 0 where there was no answer."""
        self.request_id = request_id
        """By which the server's log knows the request; "" where there was none."""


class TransientError(ClientError):
    """One that another try may not meet."""

    retry_after_s: float = 0
    """As the server asked."""


@dataclass(frozen=True)
class Alternative:
    """One of several captions of an image."""

    text: str
    score: float
    """Sum of the tokens' log-probabilities over length**length_penalty."""


@dataclass(frozen=True)
class Answer:
    """An image's captions; from `Client.captions` perhaps the reason why there are none."""

    text: str = ""
    """The best one."""
    score: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    """All captions, best first."""
    model: str = ""
    """Name of the model that answered."""
    version: str = ""
    """Identifies its checkpoint."""
    request_id: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds on the server, by stage."""
    retries: int = 0
    """Tries of this client before the one that succeeded."""
    server_retries: int = 0
    """How often the server handed the image to another captioner because one died."""
    index: int = 0
    """Place of the image among those given to `Client.captions`, from 0."""
    problem: str = ""
    """The server's code for why there is no caption; "" where there is one."""
    message: str = ""
    """The problem in one sentence."""


@dataclass(frozen=True)
class ServedModel:
    """A model that a server has."""

    name: str
    family: str
    version: str
    created: int
    """Unix time at which its checkpoint was written."""


def read_answer(found: dict[str, Any], *, index: int = 0, retries: int) -> Answer:
    """An answer of /v1/caption, or a line of /v1/captions.

    Raises:
        ClientError: it has another shape.
    """
    if "error" in found:
        error = read_error(found)
        return Answer(
            request_id=error.request_id, index=index, retries=retries, problem=error.code, message=str(error)
        )
    try:
        return Answer(
            text=found["caption"],
            score=found["score"],
            alternatives=tuple(Alternative(one["caption"], one["score"]) for one in found["alternatives"]),
            model=found["model"],
            version=found["version"],
            request_id=found["request_id"],
            timings=found["timings"],
            retries=retries,
            server_retries=found["retries"],
            index=index,
        )
    except (KeyError, TypeError):
        raise bad_answer() from None


def read_error(found: dict[str, Any], *, status: int = 0) -> ClientError:
    """The one shape of a server's errors; another one than raycap's gives its status only."""
    error = found.get("error")
    if not isinstance(error, dict):
        return ClientError(f"status_{status}", f"the server answered with status {status}", status=status)
    code, message = str(error.get("code", "")), str(error.get("message", ""))
    return ClientError(code, message, status=status, request_id=str(error.get("request_id", "")))


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ClientError: it is none.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise bad_answer()
    return found


def read_events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events with JSON data: each event's name and data (HTML standard, 9.2)."""
    name, data = "", []
    for line in lines:
        key, _, value = line.partition(":")
        if key == "event":
            name = value.strip()
        elif key == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield name, read_object("\n".join(data))
            name, data = "", []


def bad_answer() -> ClientError:
    """What came is not what raycap's server sends."""
    return ClientError("bad_answer", "what answers there does not speak raycap's protocol; check the URL")
