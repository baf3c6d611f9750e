"""Fetching an image that a request names by URL, without becoming anybody's way into the private network.

Every URL on the way is held against the allow-list (urls.py), every address it resolves to must be public, and the
connection goes to the addresses that were checked. Knows nothing of images.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from raycap.serve.http.urls import AllowList, UrlError, is_address, is_public

MAX_REDIRECTS = 3
REDIRECTS = frozenset([301, 302, 303, 307, 308])
# Nothing compressed: a few bytes would grow to gigabytes.
HEADERS = {"User-Agent": "raycap", "Accept": "image/*", "Accept-Encoding": "identity"}
PIECE = 65_536  # bytes


class FetchError(ValueError):
    """An image that was not fetched: url_not_allowed or fetch_failed, and one sentence that names no address."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Fetcher:
    """Fetches from hosts of a list."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        timeout_s: float,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
        may_contact: Callable[[str], bool] = is_public,
    ) -> None:
        """Read the list.

        Args:
            hosts: as in AllowList; with none every URL is refused.
            max_bytes: of an image.
            timeout_s: for one image: names looked up, redirects and all.
            resolver: makes what looks names up.
            may_contact: whether an IP address may be; another one serves tests only.

        Raises:
            ValueError: an entry of the list that is no host.
        """
        self.allowed = AllowList(hosts)
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self.resolver = resolver
        self.may_contact = may_contact

    async def fetch(self, url: str) -> bytes:
        """The body that a URL answers with.

        Raises:
            FetchError: `url_not_allowed`: it, an address of its host, or a redirect's target may not be contacted;
                `fetch_failed`: no answer in time, not 200, compressed, or too long.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._follow(self.allowed.check(url))
        except UrlError as error:
            raise FetchError("url_not_allowed", str(error)) from None
        except TimeoutError:
            message = f"the image did not arrive within {self.timeout_s:g} s"
            raise FetchError("fetch_failed", message) from None
        except (aiohttp.ClientError, OSError):  # their messages name addresses
            message = "the image's host could not be reached or broke off"
            raise FetchError("fetch_failed", message) from None

    async def _follow(self, url: URL) -> bytes:
        async with self._session() as session:
            for _ in range(1 + MAX_REDIRECTS):
                async with session.get(self._checked(url), allow_redirects=False) as response:
                    if response.status not in REDIRECTS:
                        return await self._read(response)
                    if "Location" not in response.headers:
                        raise FetchError("fetch_failed", "the image's host redirects to nowhere")
                    url = self.allowed.redirect(url, response.headers["Location"])
        raise FetchError("fetch_failed", f"the image's host redirects more than {MAX_REDIRECTS} times")

    def _session(self) -> aiohttp.ClientSession:
        """A session of one fetch: no proxy, no netrc, no cookies, no connection or name kept from another."""
        resolver = CheckedResolver(self.resolver(), may_contact=self.may_contact)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # fetch() has it
            headers=HEADERS,
            auto_decompress=False,
            trust_env=False,
        )

    def _checked(self, url: URL) -> URL:
        """An allowed URL, whose host is also held against the addresses where it is one: no resolver is asked then."""
        if url.host and is_address(url.host):
            check_addresses([url.host], may_contact=self.may_contact)
        return url

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise FetchError("fetch_failed", f"the image's host answered with status {response.status}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise FetchError("fetch_failed", "the image's host answered with a compressed body")
        too_long = FetchError("fetch_failed", f"the image is over the limit of {self.max_bytes:,} bytes")
        if (response.content_length or 0) > self.max_bytes:
            raise too_long
        body = bytearray()
        async for piece in response.content.iter_chunked(PIECE):
            body += piece
            if len(body) > self.max_bytes:
                raise too_long
        return bytes(body)


class CheckedResolver(AbstractResolver):
    """Looks names up once and gives only what may be contacted: the connector connects to just these addresses."""

    def __init__(self, inner: AbstractResolver, *, may_contact: Callable[[str], bool]) -> None:
        self.inner = inner
        self.may_contact = may_contact

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host.

        Raises:
            FetchError: one of them may not be contacted.
        """
        answers = await self.inner.resolve(host, port, family)
        if not answers:
            raise OSError(f"no address of {host}")
        check_addresses([answer["host"] for answer in answers], may_contact=self.may_contact)
        return answers

    async def close(self) -> None:
        """Close what looks names up."""
        await self.inner.close()


def check_addresses(addresses: Sequence[str], *, may_contact: Callable[[str], bool]) -> None:
    """Refuse a host if one of its addresses is refused, whichever would be connected to.

    Raises:
        FetchError: one may not be contacted, or is no address.
    """
    for address in addresses:
        if not is_address(address) or not may_contact(address):
            raise FetchError(
                "url_not_allowed", "the image URL's host has an address that is not of the public Internet"
            )
