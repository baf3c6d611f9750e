"""Which URLs and addresses an image may be fetched from. Decides only: nothing is resolved or contacted here.

A URL is taken apart once, by a grammar narrower than RFC 3986's, and is used put together from the checked parts: no
second parser can read another host in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import idna
from yarl import URL

MAX_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
# Names of ASCII letters are told from others below; 3002, ff0e and ff61 are dots to IDNA.
AUTHORITY = (
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._\-\u0080-\u3001\u3003-\uff0d\uff0f-\uff60\uff62-\U0010ffff]+)"
)
AUTHORITY += r"(?::(?P<port>[0-9]{1,5}))?"
PATH = (
    r"(?P<path>/[!-\"$->@-\[\]-~]*)?(?:\?(?P<query>[!-\"$-\[\]-~]*))?(?:#[!-~]*)?"  # no space, no backslash
)
GRAMMAR = re.compile(rf"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://{AUTHORITY}{PATH}")
ENTRY = re.compile(rf"(?P<suffix>\.?){AUTHORITY}")
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")  # libraries take a name that ends so for an IPv4 address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
UNICAST = ipaddress.IPv6Network("2000::/3")
# Inside what `is_global` calls global, in this Python or an older one: special blocks of the IANA registries.
SPECIAL = [
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3", "2001::/23", "2002::/16", "3fff::/20")
]


class UrlError(ValueError):
    """A URL that may not be fetched; the message is one sentence."""


@dataclass(frozen=True)
class Entry:
    """A host that may be contacted."""

    host: str
    """Normalised; with `subdomains`, what a host must end with, dot included."""
    port: int
    """0: the scheme's own."""
    subdomains: bool

    def allows(self, host: str, port: int, *, scheme: str) -> bool:
        """Whether a normalised host and a port are this entry's."""
        if port != (self.port or DEFAULT_PORTS[scheme]):
            return False
        return host.endswith(self.host) if self.subdomains else host == self.host


class AllowList:
    """Hosts that may be contacted."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Read the list.

        Args:
            hosts: names or addresses, each for the default ports or with its one port (`images.example:8443`,
                `[2001:db8::1]`); `.example.com` allows all names below example.com, itself not.

        Raises:
            ValueError: an entry that is none of these.
        """
        self.entries = [read_entry(text) for text in hosts]

    def check(self, text: str) -> URL:
        """The URL to contact, made of the parts that were checked.

        Raises:
            UrlError: not an absolute http(s) URL in plain spelling, or a host or port that is not in the list.
        """
        if not self.entries:
            raise UrlError("this server fetches no images; send the image itself")
        found = GRAMMAR.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if not found:
            raise UrlError(
                "the image URL must be http(s)://host/path of at most 2,048 characters, without user, spaces or "
                "backslashes and percent-encoded"
            )
        scheme, host = found["scheme"].lower(), normalise(found["host"])
        port = int(found["port"] or DEFAULT_PORTS[scheme])
        if not host or not any(entry.allows(host, port, scheme=scheme) for entry in self.entries):
            raise UrlError("the image URL's host or port is not one that this server fetches from")
        path, query = found["path"] or "/", found["query"] or ""
        host = f"[{host}]" if ":" in host else host
        return URL.build(scheme=scheme, host=host, port=port, path=path, query_string=query, encoded=True)

    def redirect(self, url: URL, location: str) -> URL:
        """Where a redirect leads, checked as if it had been asked for.

        Raises:
            UrlError: to no URL, to one that is not allowed, or from https to http.
        """
        try:
            text = urljoin(str(url), location)
        except ValueError:
            raise UrlError("the image's host redirects to what is no URL") from None
        try:
            target = self.check(text)
        except UrlError as error:
            raise UrlError(f"the image's host redirects elsewhere: {error}") from None
        if url.scheme == "https" and target.scheme != "https":
            raise UrlError("the image's host redirects from https to http")
        return target


def read_entry(text: str) -> Entry:
    """An entry of the list, in whatever case and script it was written.

    Raises:
        ValueError: not a host, with a dot before it or a port behind it or neither.
    """
    found = ENTRY.fullmatch(text)
    host = normalise(found["host"]) if found else ""
    port = int(found["port"] or 0) if found else 0
    subdomains = bool(found and found["suffix"])
    if not found or not host or port > 65_535 or (subdomains and is_address(host)):
        raise ValueError(
            f"{text!r} is not a host to fetch from; write images.example, .example (all names below), an address, "
            "or one of these with :port"
        )
    return Entry(f".{host}" if subdomains else host, port, subdomains)


def normalise(host: str) -> str:
    """A host in the one spelling that is compared; "" for one that has none, as all but plain addresses have."""
    if host.startswith("["):
        host = host[1:-1]
        return str(ipaddress.ip_address(host)) if ":" in host and is_address(host) else ""
    if not host.isascii():
        try:
            host = idna.encode(host.lower()).decode()
        except UnicodeError:  # idna.IDNAError is one
            return ""
    host = host.lower()
    if NUMBER.fullmatch(host):
        return host if is_address(host) else ""
    return host if NAME.fullmatch(host) else ""


def is_address(host: str) -> bool:
    """Whether a host is an IP address in its usual spelling."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open Internet.

    False for those of this machine, of private, shared, link-local and metadata networks, for multicast, and for
    tunnels that would lead there.

    Raises:
        ValueError: not an IP address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return is_public(str(ip.ipv4_mapped))
        if ip in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in UNICAST:
            return False
    return ip.is_global and not any(ip in block for block in SPECIAL)
