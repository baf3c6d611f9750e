"""Requests that are made to break a server, and what they are made of."""

import base64
import random
from typing import Any

from serving import photo

GOOD = photo(0, kilobytes=60)
TEXT = base64.b64encode(GOOD)
ROUTES = ("/v1/caption", "/v1/captions", "/v1/chat/completions", "/")


def with_image(route: str, data: bytes) -> dict[str, Any]:
    """The body of a request to a route."""
    text = base64.b64encode(data).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/captions": {"json": {"images": [text]}},
        "/v1/chat/completions": {"json": {"messages": [{"role": "user", "content": [part]}]}},
    }
    return bodies.get(route, {"content": data})


HOSTILE_JSON = {
    "depth": b"[" * 100_000,
    "deep image": b'{"image": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "deep value": b'{"image": "%s", "beams": ' % TEXT + b"[" * 900 + b"]" * 900 + b"}",
    "integer": b'{"image": "%s", "beams": 1%s}' % (TEXT, b"0" * 4000),
    "long integer": b'{"image": "%s", "beams": 1%s}' % (TEXT, b"0" * 400_000),
    "exponent": b'{"image": "%s", "temperature": 1e400}' % TEXT,
    "nan": b'{"image": "%s", "temperature": NaN}' % TEXT,
    "infinity": b'{"image": "%s", "length_penalty": -Infinity}' % TEXT,
    "list": b'{"image": [' + b"1," * 1_000_000 + b"1]}",
    "lists": b'{"images": [' + b"[]," * 900_000 + b"[]]}",
    "keys": b"{" + b",".join(b'"k%d":0' % number for number in range(15_000)) + b"}",
    "null": b'{"image": null, "images": null, "messages": null, "inputs": null}',
    "numbers": b'{"image": 1, "images": 1, "messages": 1, "inputs": 1}',
    "objects": b'{"image": {}, "images": [{}], "messages": [{}], "inputs": {}}',
    "surrogates": b'{"image": "\\ud800", "images": ["\\udfff"], "messages": ["\\ud800"], "inputs": "\\ud800"}',
    "no utf-8": b'{"image": "\xff\xfe"}',
    "utf-16": '{"image": "a"}'.encode("utf-16"),
    "zeros": bytes(1000),
    "name": b'{"image": "%s", "__class__": "os.system", "model": "../../etc/x"}' % TEXT,
}


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


IMAGE = b'content-disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + GOOD
FIELD = b'content-disposition: form-data; name="beams"\r\n\r\n'
HOSTILE_FORMS: dict[str, tuple[str, bytes]] = {
    "no boundary": ("", form(IMAGE)),
    "long boundary": ("; boundary=" + "x" * 10_000, form(IMAGE)),
    "other boundary": ("; boundary=y", form(IMAGE)),
    "charset": ("; boundary=x; charset=punycode", form(IMAGE, FIELD + b"2")),
    "many parts": ("; boundary=x", form(*[FIELD + b"2"] * 20_000)),
    "many files": ("; boundary=x", form(*[IMAGE.replace(GOOD, b"")] * 10_000)),
    "long header": ("; boundary=x", form(b"x-a: " + b"a" * 1_000_000 + b"\r\n" + IMAGE)),
    "many headers": ("; boundary=x", form(b"x-a: a\r\n" * 100_000 + IMAGE)),
    "long value": ("; boundary=x", form(IMAGE, FIELD + b"2" * 1_000_000)),
    "value": ("; boundary=x", form(IMAGE, FIELD + b"\xff\xfe")),
    "no disposition": ("; boundary=x", form(b"\r\n" + GOOD)),
    "boundaries": ("; boundary=x", b"--x\r\n" * 200_000),
    "encoded": ("; boundary=x", form(b"content-transfer-encoding: base64\r\n" + IMAGE.replace(GOOD, TEXT))),
}


ODD_HEADERS: list[dict[str, str]] = [
    {"serve_multiplexed_model_id": "../../etc"},
    {"x-request-id": "x" * 10_000},
    {"x-request-id": "../../etc/passwd%00\"'<script>"},
    {"x-request-timeout-seconds": "-1"},
    {"x-request-timeout-seconds": "nan"},
    {"x-request-timeout-seconds": "a"},
    {"x-request-disconnect-disabled": "?1"},
    {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "evil.example"},
    {"content-type": "text/" + "x" * 10_000},
    {"content-encoding": "gzip"},
    {f"x-{number}": "a" for number in range(500)},
    {"cookie": "a=" + "b" * 30_000},
]


def head(*lines: str, target: str = "/v1/caption") -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode()


SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
ODD_REQUESTS = {
    "both lengths": head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "two lengths": head("Content-Length: 5", "Content-Length: 6") + b"abcdef" + SMUGGLED,
    "negative length": head("Content-Length: -1") + SMUGGLED,
    "length with a sign": head("Content-Length: +5") + b"abcde" + SMUGGLED,
    "huge length": head("Content-Length: " + "9" * 500),
    "odd coding": head("Transfer-Encoding: xchunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunk size": head("Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n" + SMUGGLED,
    "negative chunk": head("Transfer-Encoding: chunked") + b"-1\r\n" + SMUGGLED,
    "folded header": head("X-A: a", " Transfer-Encoding: chunked", "Content-Length: 0") + SMUGGLED,
    "space before colon": head("Content-Length : 5") + b"abcde" + SMUGGLED,
    "zero in a header": head("X-A: a\0b", "Content-Length: 0"),
    "bare newlines": b"POST /v1/caption HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + SMUGGLED,
    "absolute target": head("Content-Length: 0", target="http://169.254.169.254/latest"),
    "path": head("Content-Length: 0", target="/../../etc/passwd"),
    "encoded path": head("Content-Length: 0", target="/%2e%2e/%2e%2e/etc/passwd%00"),
    "long path": head("Content-Length: 0", target="/" + "a" * 60_000),
    "old": b"GET /\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "upgrade": head("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x", "Content-Length: 0"),
    "connect": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
    "tls": bytes.fromhex("160301020001000000fc0303") + bytes(500),
    "noise": random.Random(0).randbytes(5000),
}
