"""The client itself: which requests there are, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from raycap.client.answers import (
    Answer,
    ClientError,
    ServedModel,
    TransientError,
    bad_answer,
    read_answer,
    read_error,
    read_events,
    read_object,
)
from raycap.client.calls import RETRIED_CODES, Call, sent, transient
from raycap.vision.reading import ImageInput, encode_image

BATCH_IMAGES, BATCH_BYTES = 32, 10_000_000  # below a server's own limits on one request
BYTES = "application/octet-stream"


class Client:
    """Captions images with a server. May be shared by threads; closes its connections as a context manager."""

    def __init__(self, url: str, *, api_key: str = "", timeout_s: float = 60, tries: int = 8) -> None:
        """Contacts nobody yet.

        Args:
            url: where raycap is served, e.g. http://localhost:8000.
            api_key: one of the server's, where it asks for one.
            timeout_s: for each call, all tries and waits included; for `captions`, for each batch. A server that sends
                bytes of one answer very slowly can stretch it to twice that.
            tries: how often a call is tried where the server cannot be reached, is overloaded or restarts.

        Raises:
            ValueError: a URL that is not http(s), no time or no try.
        """
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r} and must start with http:// or https://")
        if timeout_s <= 0 or tries < 1:
            raise ValueError(f"timeout_s and tries must be above 0, and are {timeout_s} and {tries}")
        if not api_key.isascii():
            raise ValueError("api_key has a character that is not ASCII, which no header can carry")
        self.timeout_s = timeout_s
        self.tries = tries
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self.http = httpx.Client(base_url=url, headers=headers)
        except httpx.InvalidURL as error:
            raise ValueError(f"url is {url!r}: {error}") from None

    def caption(self, image: ImageInput, **settings: Any) -> Answer:
        """Captions of an image.

        Args:
            image: a path, encoded bytes, a PIL image or a uint8 (height, width, 3) array.
            settings: of decoding (beams, n, max_tokens, ...), over the checkpoint's own; and `model`, where several
                are served.

        Raises:
            ClientError: the server refused it, or gave no answer in time.
            BadImageError: not an image at all.
            OSError: a file that cannot be read.
        """
        data = encode_image(image, compress_level=1)
        request = {"content": data, "params": settings, "headers": {"Content-Type": BYTES}}
        call = self._call()
        found = self._object(call, "POST", "/v1/caption", **request)
        return read_answer(found, retries=call.retries)

    def captions(self, images: Iterable[ImageInput], **settings: Any) -> Iterator[Answer]:
        """Captions of many images, each as soon as it is ready: `Answer.index` says of which.

        Images are read and sent 32 at a time. One that the server refuses gives an answer with `problem`; images that
        a server could not get to are sent again.

        Raises:
            ClientError: the server refused all of them, or gave no answer in time.
            BadImageError: not an image at all.
            OSError: a file that cannot be read.
            ValueError: one path or image in the place of several.
        """
        if isinstance(images, (str, bytes)):
            raise ValueError("captions takes several images, and got one; give a list, or call caption")
        for batch in _batches(images):
            yield from self._caption_batch(batch, settings)

    def stream(self, image: ImageInput, **settings: Any) -> Iterator[str]:
        """Pieces of the best caption as they become certain; joined, they are its text. Otherwise as `caption`.

        Raises:
            ClientError: as `caption`, and broken_off where the server stopped halfway: pieces are not sent again.
        """
        data = encode_image(image, compress_level=1)
        request = {
            "content": data,
            "params": {**settings, "stream": True},
            "headers": {"Content-Type": BYTES},
        }
        call, begun = self._call(), False
        for attempt in call.attempts():
            with attempt:
                try:
                    for piece in self._pieces(call, request):
                        begun = True
                        yield piece
                    return
                except TransientError as error:
                    if begun:
                        raise ClientError("broken_off", f"the caption broke off: {error}") from error
                    raise

    def models(self) -> list[ServedModel]:
        """The served models, the default one first.

        Raises:
            ClientError: as `caption`.
        """
        found = self._object(self._call(), "GET", "/v1/models")
        try:
            return [
                ServedModel(one["id"], one["family"], one["version"], one["created"]) for one in found["data"]
            ]
        except (KeyError, TypeError):
            raise bad_answer() from None

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self) -> Call:
        return Call(self.timeout_s, self.tries)

    def _object(self, call: Call, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that a request is answered with, after as many tries as it takes."""
        for attempt in call.attempts():
            with attempt, sent(self.http, call, method, path, **request) as response:
                return read_object(b"".join(call.in_time(response.iter_bytes())))
        raise AssertionError("the last try raises")

    def _pieces(self, call: Call, request: dict[str, Any]) -> Iterator[str]:
        """One try of a stream."""
        with sent(self.http, call, "POST", "/v1/caption", **request) as response:
            for name, data in read_events(call.in_time(response.iter_lines())):
                if name == "token":
                    yield str(data.get("text", ""))
                elif name == "caption":
                    return
                elif name == "error":
                    error = read_error(data)
                    raise transient(error) if error.code in RETRIED_CODES else error
        raise TransientError("broken_off", "the server stopped halfway")

    def _caption_batch(self, batch: dict[int, bytes], settings: dict[str, Any]) -> Iterator[Answer]:
        call, left = self._call(), dict(batch)
        late: dict[int, Answer] = {}
        try:
            for attempt in call.attempts():
                with attempt:
                    late.clear()
                    for answer in self._lines(call, left, settings):
                        if answer.problem in RETRIED_CODES:
                            late[answer.index] = answer
                        elif left.pop(answer.index, None) is not None:
                            yield answer
                    if left:
                        raise self._left_over(left, late)
        except TransientError:
            if left.keys() != late.keys():
                raise
            yield from late.values()

    def _lines(self, call: Call, batch: dict[int, bytes], settings: dict[str, Any]) -> Iterator[Answer]:
        """One try of a batch."""
        order = list(batch)
        files = [("image", (str(index), batch[index], BYTES)) for index in order]
        with sent(self.http, call, "POST", "/v1/captions", files=files, params=settings) as response:
            for line in call.in_time(response.iter_lines()):
                if line.strip():
                    found = read_object(line)
                    place = found.get("index")
                    if not isinstance(place, int) or place not in range(len(order)):
                        raise bad_answer()
                    yield read_answer(found, index=order[place], retries=call.retries)

    @staticmethod
    def _left_over(left: dict[int, bytes], late: dict[int, Answer]) -> TransientError:
        for answer in late.values():
            return TransientError(answer.problem, answer.message, request_id=answer.request_id)
        return TransientError("broken_off", f"the server stopped with {len(left)} images to go")


def _batches(images: Iterable[ImageInput]) -> Iterator[dict[int, bytes]]:
    """Encoded images by their place, few enough and small enough for one request."""
    batch: dict[int, bytes] = {}
    size = 0
    for index, image in enumerate(images):
        data = encode_image(image, compress_level=1)
        if batch and (len(batch) == BATCH_IMAGES or size + len(data) > BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[index] = data
        size += len(data)
    if batch:
        yield batch
