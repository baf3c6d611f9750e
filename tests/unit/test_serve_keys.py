"""API keys: on every route but health, in three ways to send them, and compared in one time."""

import base64
import hmac
import re
from typing import Any

import pytest
from serve_fakes import ask, make_app, picture

from raycap.config import ConfigError
from raycap.serve.http.keys import key_digests

OLD, NEW = "the-old-key-0123456789", "the-new-key:0123456789"
DIGESTS = key_digests({"RAYCAP_API_KEYS": f"{OLD}, {NEW}"})


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {OLD}"},
        {"authorization": f"bearer  {NEW} "},
        {"x-api-key": NEW},
        basic(f"anybody:{NEW}"),
        basic(f":{OLD}"),
        {"authorization": "Bearer wrong", "x-api-key": OLD},
    ],
    ids=["bearer", "bearer spaced", "header", "basic", "basic without name", "one of two"],
)
def test_a_key_opens_the_service(headers: dict[str, str]) -> None:
    answer = ask(make_app(key_digests=DIGESTS), content=picture(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer the-wrong-key-0123456789"},
        {"authorization": "Bearer"},
        {"authorization": OLD},
        {"authorization": f"Digest {OLD}"},
        {"authorization": "Basic %%%"},
        {"authorization": b"Basic \xff\xfe"},
        basic(OLD),  # a name, and no password
        {"authorization": f"Bearer {DIGESTS[0]}"},
        {"x-api-key": f"{OLD},{NEW}"},
        {"x-api-key": ""},
        {"cookie": f"key={OLD}"},
    ],
)
def test_without_a_key_nothing_opens(headers: dict[str, Any]) -> None:
    answer = ask(make_app(key_digests=DIGESTS), content=picture(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith('Basic realm="raycap"')
    assert "Bearer" in answer.headers["www-authenticate"]


def test_every_route_but_health_needs_one() -> None:
    """Routes are read from the app itself, so that one added later is tested too."""
    open_app, locked = make_app(), make_app(key_digests=DIGESTS)
    paths = ask(open_app, "/openapi.json", "GET").json()["paths"]
    asked = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    asked |= {
        ("/", "GET"),
        ("/docs", "GET"),
        ("/openapi.json", "GET"),
        ("/nothing", "GET"),
        ("/healthz/", "GET"),
    }
    asked |= {
        ("/healthz/../version", "GET"),
        ("//healthz", "GET"),
        ("/HEALTHZ", "GET"),
        ("/v1/caption", "OPTIONS"),
    }
    for path, method in sorted(asked):
        status = ask(locked, re.sub(r"\{.*\}", "default", path), method).status_code
        assert (status == 401) != (path in {"/healthz", "/readyz"}), (path, method, status)
    assert len(asked) >= 15


def test_a_prefix_of_the_whole_service_opens_nothing() -> None:
    app = make_app(key_digests=DIGESTS)
    app.root_path = "/captions"
    assert ask(app, "/captions/healthz", "GET").status_code == 200
    assert ask(app, "/captions/version", "GET").status_code == 401


def test_all_digests_are_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    app = make_app(key_digests=DIGESTS)
    for key in (OLD, NEW, "the-wrong-key-0123456789"):
        compared.clear()
        ask(app, "/version", "GET", headers={"x-api-key": key})
        assert [known for _, known in compared] == DIGESTS


def test_the_documentation_has_a_field_for_the_key() -> None:
    app = make_app(key_digests=DIGESTS)
    document = ask(app, "/openapi.json", "GET", headers={"x-api-key": OLD}).json()
    assert set(document["components"]["securitySchemes"]) == {"HTTPBearer", "HTTPBasic", "APIKeyHeader"}
    assert "security" in document["paths"]["/v1/caption"]["post"]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert "securitySchemes" not in ask(make_app(), "/openapi.json", "GET").json()["components"]


def test_keys_come_from_the_environment_as_digests() -> None:
    assert key_digests({}) == key_digests({"RAYCAP_API_KEYS": ""}) == []
    with pytest.raises(ConfigError, match="is set and has no key in it"):
        key_digests({"RAYCAP_API_KEYS": " , "})
    assert len(DIGESTS) == 2
    assert all(len(digest) == 64 and OLD not in digest for digest in DIGESTS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (f"{OLD},short", "key 2 in RAYCAP_API_KEYS has 5 characters; a key needs 16 or more"),
        ("schlüssel-0123456789", "key 1 in RAYCAP_API_KEYS must be visible ASCII"),
        ("two words 0123456789", "must be visible ASCII"),
    ],
)
def test_a_weak_key_is_refused_without_repeating_it(keys: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        key_digests({"RAYCAP_API_KEYS": keys})
    assert keys.rpartition(",")[2] not in str(refused.value)
