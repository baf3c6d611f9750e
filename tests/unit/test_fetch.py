"""The fetcher as the way into a private network: tried against a real server that records who came."""

import asyncio
import gzip
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st
from ports import free_port

from raycap.serve.http.fetch import Fetcher, FetchError
from raycap.serve.http.urls import AllowList, UrlError, is_public

IMAGE = bytes(range(256)) * 40
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"  # both are this machine; tests call the first one public


def only_outside(address: str) -> bool:
    return address == OUTSIDE


class Names(AbstractResolver):
    """Answers each look-up of a name with its next list of addresses, all at one port."""

    def __init__(self, answers: dict[str, list[list[str]]], *, port: int) -> None:
        self.answers = {name: list(lists) for name, lists in answers.items()}
        self.port = port
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        lists = self.answers.get(host)
        if lists is None:
            raise OSError("no such name at 10.1.2.3")
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [self.result(host, address) for address in addresses]

    def result(self, host: str, address: str) -> ResolveResult:
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return ResolveResult(hostname=host, host=address, port=self.port, family=kind, proto=0, flags=0)

    async def close(self) -> None:
        """Holds nothing."""


class Visits:
    """A server on both addresses, at one port, that answers by path and records every connection."""

    def __init__(self) -> None:
        self.port = free_port()
        self.came: list[str] = []
        self.requests: list[web.Request] = []

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        for address in (OUTSIDE, INSIDE):
            await web.TCPSite(runner, address, self.port).start()
        return runner

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.came.append(request.transport.get_extra_info("sockname")[0])
        self.requests.append(request)
        if target := request.query.get("to"):
            return web.Response(status=302, headers={"Location": target, "Set-Cookie": "a=b"})
        return web.Response(body=IMAGE)


def fetched(
    url: str,
    *,
    hosts: tuple[str, ...] = ("images.test",),
    names: dict[str, list[list[str]]] | None = None,
    to: str = "",
    **options: Any,
) -> tuple[bytes | FetchError, Visits, Names]:
    """What fetching a URL gives, and who was contacted; {port} is the server's, `to` where it redirects to."""
    visits = Visits()
    if to:
        url += "?to=" + quote(to.replace("{port}", str(visits.port)), safe="")
    resolver = Names(names or {"images.test": [[OUTSIDE]]}, port=visits.port)
    arguments = {"max_bytes": 20_000, "timeout_s": 10, "may_contact": only_outside, **options}

    async def run() -> bytes | FetchError:
        fetcher = Fetcher(
            [host.format(port=visits.port) for host in hosts], resolver=lambda: resolver, **arguments
        )
        runner = await visits.start()
        try:
            return await fetcher.fetch(url.replace("{port}", str(visits.port)))
        except FetchError as error:
            return error
        finally:
            await runner.cleanup()

    return asyncio.run(run()), visits, resolver


def refused(found: Any, code: str, message: str = "") -> None:
    assert isinstance(found, FetchError), found
    assert found.code == code
    assert message in str(found)
    assert not any(part in str(found) for part in ("127.", "10.1", "::1", "\n"))


# ---------------------------------------------------------------------------------------------- good path


@pytest.mark.parametrize(
    ("url", "hosts", "names"),
    [
        ("http://images.test/a.jpg", ("images.test",), {}),
        ("HTTP://IMAGES.Test/a.jpg?x=1&y=%2F#top", ("Images.TEST",), {}),
        ("http://images.test:80", ("images.test",), {}),
        ("http://images.test:{port}/a.jpg", ("images.test:{port}",), {}),
        ("http://a.b.images.test/", (".images.test",), {"a.b.images.test": [[OUTSIDE]]}),
        ("http://BÜCHER.test/", ("bücher.test",), {"xn--bcher-kva.test": [[OUTSIDE]]}),
        ("http://xn--bcher-kva.test/", ("bücher.test",), {"xn--bcher-kva.test": [[OUTSIDE]]}),
        ("http://127.0.0.1:{port}/a.jpg", ("127.0.0.1:{port}",), {}),
    ],
)
def test_an_allowed_image_is_fetched(url: str, hosts: tuple[str, ...], names: Any) -> None:
    found, visits, _ = fetched(url, hosts=hosts, names=names)
    assert found == IMAGE
    assert visits.came == [OUTSIDE]


def test_the_request_tells_nothing_and_takes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{INSIDE}:9")
    found, visits, _ = fetched("http://images.test/a%20b", to="/c/../%64?e=%C3%A9#top")
    assert found == IMAGE
    assert visits.requests[0].raw_path.startswith("/a%20b?")
    assert visits.requests[1].raw_path == "/%64?e=%C3%A9"
    for request in visits.requests:
        assert (request.headers["Host"], request.headers["Connection"]) == ("images.test", "close")
        names = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
        assert set(request.headers) == names  # not even a cookie


def test_redirects_are_followed_three_times() -> None:
    found, visits, resolver = fetched("http://images.test/?to=/?to=/%3Fto=/x")
    assert (found, len(visits.came)) == (IMAGE, 4)
    assert resolver.asked == ["images.test"] * 4
    found, visits, _ = fetched("http://images.test/?to=http://images.test/?to=/%3Fto=/%253Fto=/x")
    refused(found, "fetch_failed", "redirects more than 3 times")
    assert len(visits.came) == 4


# ------------------------------------------------------------------------------------------------- tricks

TRICKS = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://00000127.0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[::1%lo]:{port}/",
    "http://[images.test]:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://[:]:{port}/",
    "http://localhost:{port}/",
    "http://localhost.:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localtest.me:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://images.test.:{port}/",
    "http://.images.test:{port}/",
    "http://images..test:{port}/",
    "http://images.test.evil.test:{port}/",
    "http://evil-images.test:{port}/",
    "http://evil.test:{port}/images.test",
    "http://evil.test:{port}/?images.test:{port}",
    "http://evil.test:{port}#@images.test:{port}/",
    "http://evil.test:{port}?@images.test:{port}/",
    "http://images.test:{port}@evil.test:{port}/",
    "http://images.test@evil.test:{port}/",
    "http://user:pass@images.test:{port}/",
    "http://@images.test:{port}/",
    "http://images.test:80@images.test:{port}/",
    "http://evil.test:{port}\\@images.test:{port}/",
    "http://images.test:{port}\\@evil.test:{port}/",
    "http://images.test:{port}\\evil",
    "http:\\\\images.test:{port}\\",
    "http:/images.test:{port}/",
    "http:images.test:{port}/",
    "http:///images.test:{port}/",
    "//images.test:{port}/",
    "images.test:{port}/",
    " http://images.test:{port}/",
    "http://images.test:{port}/ ",
    "http://images.test:{port}/\n",
    "http://images.test:{port}/a b",
    "http://images.test:{port}/\r\nX-Injected: 1",
    "http://images.test\t:{port}/",
    "ht\ntp://images.test:{port}/",
    "http://images.test:{port}/\x00",
    "http://images.test%00.evil.test:{port}/",
    "http://images%2etest:{port}/",
    "http://%69mages.test:{port}/",
    "http://images。test:{port}/",
    "http://images．test:{port}/",
    "http://127。0。0。1:{port}/",
    "http://１２７.0.0.1:{port}/",
    "http://①②⑦.0.0.1:{port}/",
    "http://𝟭𝟮𝟳.0.0.1:{port}/",
    "http://ⓘmages.test:{port}/",
    "http://ımages.test:{port}/",
    "http://images\u00ad.test:{port}/",
    "http://\udce4images.test:{port}/",
    "http://images.test:{port}",
    "http://images.test:/",
    "http://images.test:0/",
    "http://images.test:22/",
    "http://images.test:443/",
    "https://images.test:80/",
    "http://images.test:00080000/",
    "http://images.test:+80/",
    "http://images.test:８０/",
    "http://images.test:99999/",
    "file:///etc/passwd",
    "file://images.test/etc/passwd",
    "gopher://images.test:{port}/_GET",
    "ftp://images.test/",
    "dict://images.test:{port}/",
    "ws://images.test/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "unix:///var/run/docker.sock",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "view-source:http://images.test/",
    "http://images.test/" + "a" * 2048,
    "",
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Callable[[str], Any], Visits]]:
    """A fetcher that may contact every address and resolves every name to the server: only the URL is checked."""

    class Everything(Names):
        async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
            self.asked.append(host)
            return [self.result(host, OUTSIDE)]

    with asyncio.Runner() as loop:
        visits = Visits()
        site = loop.run(visits.start())
        fetcher = Fetcher(
            ["images.test"],
            max_bytes=20_000,
            timeout_s=10,
            resolver=lambda: Everything({}, port=visits.port),
            may_contact=lambda _: True,
        )
        yield lambda url: loop.run(fetcher.fetch(url)), visits
        loop.run(site.cleanup())


@pytest.mark.parametrize("url", TRICKS)
def test_tricks_contact_nobody(url: str, guarded: Any) -> None:
    fetch, visits = guarded
    before = len(visits.came)
    with pytest.raises(FetchError) as caught:
        fetch(url.replace("{port}", str(visits.port)))
    refused(caught.value, "url_not_allowed")
    assert len(visits.came) == before
    assert fetch("http://images.test/") == IMAGE  # the server was there


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(
                ["http", "https", "://", "images.test", "evil.test", "@", ":", "/", "\\", "#", "?"]
            ),
            st.sampled_from(["[", "]", "::1", "127.0.0.1", "80", "443", ".", "%", "\t", "é", "。"]),
            st.text(max_size=3),
        ),
        max_size=8,
    ),
    prefix=st.sampled_from(["", "http://", "http://images.test", "https://images.test"]),
)
def test_whatever_passes_is_the_allowed_host_at_its_port(parts: list[str], prefix: str) -> None:
    try:
        url = AllowList(["images.test"]).check(prefix + "".join(parts))
    except UrlError:
        return
    assert (url.host, url.user, url.port) == ("images.test", None, {"http": 80, "https": 443}[url.scheme])


@pytest.mark.parametrize(
    "addresses",
    [
        [INSIDE],
        ["0.0.0.0"],
        ["::1"],
        ["::"],
        ["::ffff:127.0.0.1"],
        ["::ffff:127.0.0.2"],
        [OUTSIDE, INSIDE],  # public and private together: whichever would be tried first
        [INSIDE, OUTSIDE],
        ["2130706433"],  # a resolver that does not answer with addresses
        ["localhost"],
        [""],
    ],
)
def test_a_name_with_an_address_inside_is_refused(addresses: list[str]) -> None:
    found, visits, _ = fetched("http://images.test/", names={"images.test": [addresses]})
    refused(found, "url_not_allowed", "not of the public Internet")
    assert not visits.came


def test_names_of_this_machine_are_refused_by_default() -> None:
    for addresses in ([OUTSIDE], ["::1"], ["10.1.2.3"], ["169.254.169.254"]):
        names = {"images.test": [addresses]}
        found, visits, _ = fetched("http://images.test/", names=names, may_contact=is_public)
        refused(found, "url_not_allowed", "not of the public Internet")
        assert not visits.came
    url = "http://127.0.0.1:{port}/"
    found, visits, _ = fetched(url, hosts=("127.0.0.1:{port}",), may_contact=is_public)  # though it is listed
    refused(found, "url_not_allowed", "not of the public Internet")
    assert not visits.came


def test_a_name_is_looked_up_once_for_a_connection() -> None:
    """Rebinding: the first answer is checked, the second one leads inside."""
    names = {"images.test": [[OUTSIDE], [INSIDE]]}
    found, visits, resolver = fetched("http://images.test/", names=names)
    assert found == IMAGE
    assert (visits.came, resolver.asked) == ([OUTSIDE], ["images.test"])
    found, visits, resolver = fetched("http://images.test/?to=/again", names=names)
    refused(found, "url_not_allowed", "not of the public Internet")
    assert (visits.came, len(resolver.asked)) == ([OUTSIDE], 2)


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/",
        "http://inside.test/",
        "//inside.test/",
        "http://images.test:{port}/",
        "http://user@images.test/",
        "https://inside.test/",
        "file:///etc/passwd",
        "gopher://images.test/",
        "\\\\inside.test\\",
        "http://[::1/",
        "/?to=http://127.0.0.2:{port}/",
        "/a b",
    ],
)
def test_redirects_are_checked_as_the_first_url_is(target: str) -> None:
    names = {"images.test": [[OUTSIDE]], "inside.test": [[OUTSIDE]]}
    found, visits, _ = fetched("http://images.test/", to=target, names=names)
    refused(found, "url_not_allowed", "the image's host redirects")
    assert set(visits.came) == {OUTSIDE}


def test_a_redirect_to_a_listed_name_inside_is_refused() -> None:
    names = {"images.test": [[OUTSIDE]], "inside.test": [[INSIDE]]}
    hosts = ("images.test", "inside.test", f"{INSIDE}:{{port}}")
    for target in ("http://inside.test/", f"http://{INSIDE}:{{port}}/"):
        found, visits, _ = fetched("http://images.test/", to=target, names=names, hosts=hosts)
        refused(found, "url_not_allowed", "not of the public Internet")
        assert visits.came == [OUTSIDE]


def test_no_redirect_from_https_to_http() -> None:
    allowed = AllowList(["images.test"])
    url = allowed.check("https://images.test/a/b")
    assert str(allowed.redirect(url, "../c?d")) == "https://images.test/c?d"
    assert str(allowed.redirect(allowed.check("http://images.test/"), str(url))) == str(url)
    with pytest.raises(UrlError, match="redirects from https to http"):
        allowed.redirect(url, "http://images.test/a")


# ---------------------------------------------------------------------------------------------- addresses


PRIVATE = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8
    192.0.0.170 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255
    240.0.0.1 255.255.255.255 100.100.100.200
    :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:0:4136:e378::1
    2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
"""
PUBLIC = """
    8.8.8.8 1.1.1.1 93.184.216.34 172.32.0.1 100.128.0.1 223.255.255.255
    2606:4700::1111 2a00:1450::1 2001:200::1 2001:4860:4860::8888 ::ffff:8.8.8.8 64:ff9b::8.8.8.8
"""


def test_which_addresses_are_public() -> None:
    assert [address for address in PRIVATE.split() if is_public(address)] == []
    assert [address for address in PUBLIC.split() if not is_public(address)] == []


# ----------------------------------------------------------------------------------------- the list itself


@pytest.mark.parametrize(
    "entry",
    [
        *("", ".", "..test", "*", "*.images.test", "a b.test", "images。test", "user@images.test"),
        *("http://images.test", "images.test/", "images.test:", "images.test:99999"),
        *("127.1", "0x7f.1", "1.2.3", ".1.2.3.4", "[::1", "::1", "[1.2.3.4]", ".[::1]"),
    ],
)
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is not a host to fetch from; write images\.example"):
        Fetcher([entry], max_bytes=1, timeout_s=1)


def test_entries_allow_what_they_say() -> None:
    allowed = AllowList([".images.test", "other.test:8443", "[2606:4700::1111]", "93.184.216.34"])
    for url in (
        "http://a.images.test/",
        "https://a.b.images.test/",
        "https://other.test:8443/",
        "http://[2606:4700:0::1111]/",
        "http://93.184.216.34/",
    ):
        assert allowed.check(url).host
    for url in (
        "http://images.test/",
        "http://aimages.test/",
        "https://other.test/",
        "http://a.images.test:8443/",
        "http://93.184.216.034/",
        "http://[2606:4700::1112]/",
    ):
        with pytest.raises(UrlError, match="host or port is not one"):
            allowed.check(url)


def test_without_a_list_nothing_is_fetched() -> None:
    found, visits, _ = fetched("http://images.test/", hosts=())
    refused(found, "url_not_allowed", "this server fetches no images; send the image itself")
    assert not visits.came


# ------------------------------------------------------------------------------------------ bad responders

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answered(handler: Handler, *, timeout_s: float = 10) -> Any:
    """What fetching from a server gives that writes what it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def run() -> bytes | FetchError:
        server = await asyncio.start_server(serve, OUTSIDE, 0)
        names = Names({"images.test": [[OUTSIDE]]}, port=server.sockets[0].getsockname()[1])
        fetcher = Fetcher(
            ["images.test"],
            max_bytes=20_000,
            timeout_s=timeout_s,
            resolver=lambda: names,
            may_contact=only_outside,
        )
        async with server:
            try:
                return await fetcher.fetch("http://images.test/")
            except FetchError as error:
                return error

    return asyncio.run(run())


def writes(data: bytes) -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return handler


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered with status 404"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\na", "answered with status 206"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "redirects to nowhere"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20001\r\n\r\n", "over the limit of 20,000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(20_001), "over the limit of 20,000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "could not be reached or broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nshort", "could not be reached or broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "could not be reached or broke off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, "could not be reached or broke off"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "could not be reached or broke off"),
        (b"", "could not be reached or broke off"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10_000_000)),
            "answered with a compressed body",
        ),
    ],
)
def test_what_is_no_image_in_time_is_an_error(answer: bytes, message: str) -> None:
    refused(answered(writes(answer)), "fetch_failed", message)


def test_a_length_that_lies_is_cut_off() -> None:
    found = answered(writes(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"))
    assert found == b"abc" or isinstance(found, FetchError)  # as aiohttp sees the rest before or after


def test_an_endless_body_is_given_up_at_the_limit() -> None:
    sent = 0

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
            await writer.drain()
            sent += 4096

    refused(answered(handler), "fetch_failed", "over the limit of 20,000 bytes")
    assert sent < 20_000_000  # what sockets hold


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"]
)
def test_a_slow_sender_is_given_up(start: bytes) -> None:
    """A byte now and then keeps a timeout for each read from running out."""

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.01)

    refused(answered(handler, timeout_s=0.2), "fetch_failed", "did not arrive within 0.2 s")


def test_a_name_that_is_not_found_or_has_no_address() -> None:
    for names in ({"other.test": [[OUTSIDE]]}, {"images.test": [[]]}):
        found, visits, _ = fetched("http://images.test/", names=names)
        refused(found, "fetch_failed", "could not be reached")
        assert not visits.came


def test_nobody_listening() -> None:
    names = Names({"images.test": [[OUTSIDE]]}, port=free_port())
    fetcher = Fetcher(
        ["images.test"], max_bytes=1, timeout_s=10, resolver=lambda: names, may_contact=only_outside
    )
    with pytest.raises(FetchError, match="could not be reached") as caught:
        asyncio.run(fetcher.fetch("http://images.test/"))
    refused(caught.value, "fetch_failed")
