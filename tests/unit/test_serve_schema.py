"""The OpenAPI document says what the service does: schemathesis finds no request that is answered otherwise."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serve_fakes import FakeCaptioner, ask, make_app

from raycap.schema import Caption
from raycap.serve.contract import Order, Outcome

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


class Anything(FakeCaptioner):
    """Has a caption for everything: no setting that is drawn at random may make it misbehave."""

    async def caption(self, order: Order) -> Outcome:
        return Outcome([Caption("a dog", -1.0)], 2, order.model or "default", "0123456789ab", {})


schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(Anything()))
schema.config.generation.update(modes=list(schemathesis.GenerationMode))  # requests that break the schema too


@schema.parametrize()
@seed(1)
@settings(
    max_examples=20,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_documented(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)


def test_every_route_says_what_it_is_for() -> None:
    document = ask(make_app(), "/openapi.json", "GET").json()
    operations = {
        f"{method.upper()} {path}": found
        for path, methods in document["paths"].items()
        for method, found in methods.items()
    }
    assert set(operations) == {
        "POST /v1/caption",
        "POST /v1/captions",
        "POST /v1/chat/completions",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "POST /",
        "GET /",
        "GET /healthz",
        "GET /readyz",
        "GET /version",
    }
    for name, operation in operations.items():
        assert operation["description"], name
        if name.startswith("POST"):
            assert operation["requestBody"]["content"], name
            assert {"400", "413", "422", "429", "504"} <= set(operation["responses"]), name
    parameters = {one["name"]: one for one in operations["POST /v1/caption"]["parameters"]}
    assert {"beams", "n", "model", "stream"} <= set(parameters)
    assert parameters["beams"]["schema"] == {**parameters["beams"]["schema"], "minimum": 1, "maximum": 10}
    assert "default" not in parameters["beams"]["schema"]  # it is the checkpoint's


@pytest.mark.parametrize("path", ["/v1/caption", "/v1/captions", "/v1/chat/completions", "/"])
def test_the_examples_work(path: str) -> None:
    document = ask(make_app(), "/openapi.json", "GET").json()
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    example = content.get("example") or content["examples"]["base64"]["value"]
    answer = ask(make_app(), path, json=example)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text


def test_the_documentation_opens() -> None:
    answer = ask(make_app(), "/docs", "GET")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
