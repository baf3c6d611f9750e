"""One call: its deadline, its tries, and what may be tried again. Knows nothing of captions."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import stamina

from raycap.client.answers import ClientError, TransientError, bad_answer, read_error, read_object

RETRIED_STATUSES = frozenset([429, 502, 503, 504])
RETRIED_CODES = frozenset(["overloaded", "unavailable", "not_ready", "timeout"])
"""Of errors that come inside an answer."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0  # eight tries take half a minute: a restart
CONNECT_S = 5.0
Piece = TypeVar("Piece")


@dataclass
class Call:
    """The time and the tries of one call."""

    timeout_s: float
    """For the whole call, all tries and waits included."""
    tries: int
    retries: int = 0
    ends: float = field(init=False)

    def __post_init__(self) -> None:
        self.ends = time.monotonic() + self.timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline.

        Raises:
            ClientError: none.
        """
        left = self.ends - time.monotonic()
        if left <= 0:
            raise self.too_late()
        return left

    def too_late(self) -> ClientError:
        """The error of a call that took too long."""
        return ClientError("deadline", f"no answer within {self.timeout_s:g} s, tries included")

    def attempts(self) -> Iterator[stamina.Attempt]:
        """The tries, with waits between them; the last error is raised."""
        return iter(stamina.retry_context(on=self._wait_s, attempts=self.tries, timeout=None))

    def in_time(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Pieces of an answer, until the deadline; the time that the caller takes for one does not count."""
        for piece in pieces:
            begin = time.monotonic()
            if begin > self.ends:
                raise self.too_late()
            yield piece
            self.ends += time.monotonic() - begin

    def _wait_s(self, error: Exception) -> float | bool:
        """How long to wait before the next try; False where there is to be none."""
        if not isinstance(error, TransientError):
            return False
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self.retries)
        wait = max(
            error.retry_after_s, random.uniform(longest / 2, longest)
        )  # clients are not to come all at once
        if time.monotonic() + wait >= self.ends:
            return False
        self.retries += 1
        return wait


@contextmanager
def sent(http: httpx.Client, call: Call, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
    """A request's answer of status 200, read as it comes.

    Raises:
        TransientError: no answer, one that broke off, or a status that another try may not meet.
        ClientError: another status, or the deadline.
    """
    timeout = httpx.Timeout(call.left_s, connect=min(CONNECT_S, call.left_s))
    try:
        with http.stream(method, path, timeout=timeout, **request) as response:
            if response.status_code != 200:
                response.read()
                raise refusal(response)
            yield response
    except (httpx.TransportError, httpx.StreamError) as error:
        if time.monotonic() >= call.ends:
            raise call.too_late() from error
        raise TransientError("unreachable", f"no answer from {http.base_url.host}: {error}") from error
    except httpx.DecodingError:
        raise bad_answer() from None


def refusal(response: httpx.Response) -> ClientError:
    """The error that an answer stands for."""
    try:
        error = read_error(read_object(response.content), status=response.status_code)
    except ClientError:
        error = read_error({}, status=response.status_code)
    # An error of the server's that is not in raycap's shape comes from Serve's proxy: the ingress behind it died.
    from_proxy = response.status_code >= 500 and error.code == f"status_{response.status_code}"
    if response.status_code not in RETRIED_STATUSES and not from_proxy:
        return error
    return transient(error, retry_after=response.headers.get("retry-after", ""))


def transient(error: ClientError, *, retry_after: str = "") -> TransientError:
    """The same error, as one to try again after."""
    found = TransientError(error.code, str(error), status=error.status, request_id=error.request_id)
    found.retry_after_s = float(retry_after) if retry_after.isdecimal() and len(retry_after) < 10 else 0
    return found
