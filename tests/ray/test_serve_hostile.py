"""What hostile clients send to a deployed service: it answers 200 or 4xx, and is the same afterwards."""

import json
import random
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import ray
from hostile_images import SOURCES, bombs, encoded, impostors, mutated
from hostile_requests import (
    GOOD,
    HOSTILE_FORMS,
    HOSTILE_JSON,
    IMAGE,
    ODD_HEADERS,
    ODD_REQUESTS,
    ROUTES,
    TEXT,
    form,
    head,
    with_image,
)
from ports import free_port
from serving import Service, wait_until
from small_run import make_run

from raycap.benchmarks.load_process import run_load_in_process
from raycap.engine import CaptionEngine

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LONG = {"beams": 10, "min_tokens": 50, "max_tokens": 60}
TIMEOUT_S = 6.0
MAX_BODY = 3_000_000
# What a process may grow by, in MiB. A captioner's allocator keeps what its two reading threads take for pictures of
# 40 million pixels, 4 bytes each in Pillow and 3 as an array; that is reached once and not passed.
GROWTH, CAPTIONER_GROWTH = 150, 2 * 40e6 * (4 + 3) / 2**20
SECRETS = re.compile(
    r"Traceback|site-packages|\.py\b|/(home|root|tmp|usr|var|proc)/|\b\d{1,3}(\.\d{1,3}){3}\b"
)


def check(status: int, text: str) -> None:
    """An answer is neither a failure of the server's nor tells of its inside."""
    assert 200 <= status < 500, f"{status}: {text[:300]}"
    assert not SECRETS.search(text), text[:300]


def check_response(response: httpx.Response) -> None:
    response.read()
    check(response.status_code, response.text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def expected(run: Path) -> str:
    """The caption of GOOD."""
    return CaptionEngine.load(str(run), device="cpu").caption(GOOD).text


@pytest.fixture(scope="module")
def service(ray_session: str, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One captioner that captions one image at a time."""
    from ray import serve

    service = Service(ray_session, free_port(), tmp_path_factory.mktemp("service"))
    args = {"checkpoint": str(run), "models": {"marker": str(run)}, "max_batch_size": 1}
    limits = {"timeout_s": TIMEOUT_S, "max_body_bytes": MAX_BODY}
    service.deploy(args=args | limits, captioner={"num_replicas": 1})
    service.wait_for("RUNNING")
    wait_until(service.ready, "ready")
    yield service
    serve.shutdown()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    """Every answer to it is checked."""
    with httpx.Client(base_url=service.url, timeout=60, event_hooks={"response": [check_response]}) as client:
        yield client


def memory_mib(process: int) -> float:
    """Resident set size."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.fixture(scope="module")
def before(service: Service, client: httpx.Client) -> dict[int, float]:
    """Memory of each of Serve's processes, after some work: proxy, controller and replicas."""
    for _ in range(20):
        client.post("/v1/caption", content=GOOD)
    return {process: memory_mib(process) for process in service.processes("SERVE_")}


@pytest.fixture(autouse=True)
def unharmed(
    service: Service, client: httpx.Client, before: dict[int, float], expected: str
) -> Iterator[None]:
    """After each test no process was replaced or has grown, and a good photo has its caption."""
    yield
    assert client.post("/v1/caption", content=GOOD).json()["caption"] == expected
    assert set(service.processes("SERVE_")) == set(before)
    (captioner,) = service.processes("#Captioner#")
    growth = {process: memory_mib(process) - was for process, was in before.items()}
    assert growth.pop(captioner) < CAPTIONER_GROWTH
    assert max(growth.values()) < GROWTH


# ------------------------------------------------------------------------------------------------- images


def test_two_thousand_mutated_images(service: Service) -> None:
    draw = random.Random(1)
    names = [name for name in SOURCES if name != "avif"]
    bodies = [mutated(SOURCES[names[number % len(names)]], draw) for number in range(2000)]
    report = run_load_in_process(
        f"{service.url}/v1/caption", bodies, clients=16, requests=len(bodies), limit_s=120
    )
    assert set(report.statuses) == {200, 400}, report.summary()
    assert min(report.statuses.values()) > 200
    for reply in report.replies:
        check(reply.status, json.dumps(reply.answer))


@pytest.mark.parametrize("route", ROUTES)
def test_bombs_and_impostors(client: httpx.Client, route: str) -> None:
    readable = {"largest png", "png pixels", "webp frames", "png frames", "jpeg and zip", "png and jpeg"}
    for name, data in {**bombs(), **impostors()}.items():
        answer = client.post(route, **with_image(route, data))
        good = answer.status_code == 200 and "error" not in answer.json()
        assert good == (name in readable), (name, answer.text)


def test_truncated_images(client: httpx.Client) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(kind)
        for length in range(1, len(data), len(data) // 25):
            assert client.post("/v1/caption", content=data[:length]).status_code in {200, 400}


# ------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("route", ROUTES)
def test_hostile_json(client: httpx.Client, route: str) -> None:
    for name, body in HOSTILE_JSON.items():
        answer = client.post(route, content=body, headers={"content-type": "application/json"})
        assert answer.status_code != 200 or "error" in answer.text, (name, answer.text[:300])


def test_the_last_of_two_keys_holds(client: httpx.Client, expected: str) -> None:
    body = b'{"image": 7, "beams": 99, "image": "%s", "beams": 2}' % TEXT
    assert (
        client.post("/v1/caption", content=body, headers={"content-type": "application/json"}).json()[
            "caption"
        ]
        == expected
    )


@pytest.mark.parametrize("route", ["/v1/caption", "/v1/captions"])
def test_hostile_forms(client: httpx.Client, route: str) -> None:
    for name, (options, body) in HOSTILE_FORMS.items():
        kind = {"content-type": f"multipart/form-data{options}"}
        answer = client.post(route, content=body, headers=kind)
        assert answer.status_code != 200 or "error" in answer.text, (name, answer.text[:300])


def test_a_file_name_is_no_path_and_a_missing_end_no_failure(client: httpx.Client, expected: str) -> None:
    for body in (form(IMAGE.replace(b"a.jpg", b"../../../etc/passwd\\0")), form(IMAGE, end=b"")):
        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/v1/caption", content=body, headers=kind)
        assert answer.status_code == 400 or answer.json()["caption"] == expected


def test_headers_move_nothing(client: httpx.Client, expected: str) -> None:
    for headers in ODD_HEADERS:
        answer = client.post("/v1/caption", content=GOOD, headers=headers)
        assert answer.json()["caption"] == expected, headers
        assert "evil" not in answer.text


# ------------------------------------------------------------------------------------------------ sockets


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=60)


def answer_on(connection: socket.socket) -> str:
    """Everything that comes until the server closes the connection."""
    found = bytearray()
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionError:  # it closed before it had read everything that was sent
        pass
    return found.decode("latin-1")


def check_raw(text: str) -> None:
    """As `check`, of all answers on a connection."""
    for status in re.findall(r"HTTP/1\.1 (\d+)", text):
        assert 200 <= int(status) < 500, text[:500]
    assert not SECRETS.search(text), text[:500]


def test_too_long_a_body_is_refused_before_its_end(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head("Content-Length: 100000000000"))
        text = answer_on(connection)
    assert text.startswith("HTTP/1.1 413 ")
    check_raw(text)


def test_an_endless_body_is_refused(service: Service) -> None:
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    sent = 0
    with connect(service) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        try:
            while sent < 500_000_000:
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        check_raw(answer_on(connection))
    assert sent < 500_000_000


def test_slow_senders_are_given_up_while_others_are_answered(
    service: Service, client: httpx.Client, expected: str
) -> None:
    """Whatever header says that their time is unlimited."""
    endless = "X-Request-Timeout-Seconds: -1"
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(service)) for _ in range(24)]
        for number, connection in enumerate(slow):
            if number % 3 == 0:
                connection.sendall(head("Content-Length: 1000", endless))
            elif number % 3 == 1:
                connection.sendall(head("Transfer-Encoding: chunked", endless) + b"3\r\nabc\r\n")
            else:
                connection.sendall(b"POST /v1/caption HTTP/1.1\r\nX-A: ")  # never a whole header
        deadline = time.monotonic() + TIMEOUT_S + 1
        while time.monotonic() < deadline:
            for number, connection in enumerate(slow):
                drip(connection, b"1\r\na\r\n" if number % 3 == 1 else b"a")
            assert client.post("/v1/caption", content=GOOD).json()["caption"] == expected
            time.sleep(0.3)
        for number, connection in enumerate(slow):
            if number % 3 < 2:
                text = answer_on(connection)
                assert text.startswith("HTTP/1.1 408 "), text
                assert "request_timeout" in text
                check_raw(text)


def drip(connection: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):  # given up
        connection.sendall(data)


@pytest.mark.parametrize("name", ODD_REQUESTS)
def test_odd_requests(service: Service, name: str) -> None:
    with connect(service) as connection:
        connection.sendall(ODD_REQUESTS[name])
        connection.shutdown(socket.SHUT_WR)
        check_raw(answer_on(connection))


def test_a_client_that_hangs_up_frees_its_place(service: Service, client: httpx.Client) -> None:
    """One image at a time: of a dozen long captions whose clients leave, hardly one is made before what follows."""
    before = steps_until_marker(client, 1)
    with ThreadPoolExecutor(12) as pool, ExitStack() as stack:
        connections = [stack.enter_context(connect(service)) for _ in range(12)]
        query = "&".join(f"{name}={value}" for name, value in LONG.items())
        for connection in connections:
            target = f"/v1/caption?{query}"
            connection.sendall(head(f"Content-Length: {len(GOOD)}", target=target) + GOOD)
        wait([pool.submit(connection.recv, 1) for connection in connections], return_when=FIRST_COMPLETED)
        for connection in connections:
            connection.shutdown(socket.SHUT_RDWR)
    steps = steps_until_marker(client, 2) - before
    assert LONG["min_tokens"] <= steps <= 5 * LONG["min_tokens"]


def steps_until_marker(client: httpx.Client, number: int) -> float:
    """Decoding steps that were taken when the model "marker" had made its `number`th caption.

    Captions would not do: one that is made for nobody is not counted.
    """
    assert client.post("/v1/caption", content=GOOD, params={"model": "marker"}).status_code == 200
    pages: list[str] = [""]

    def exported() -> bool:
        pages[0] = metrics()
        return metric(pages[0], "ray_raycap_captions_total", 'model="marker"') >= number

    wait_until(exported, "metrics", deadline_s=60)
    return metric(pages[0], "ray_raycap_batch_images_count")


def metrics() -> str:
    """What Prometheus would read."""
    folder = Path(ray._private.worker._global_node.get_temp_dir_path())
    targets = json.loads((folder / "prom_metrics_service_discovery.json").read_text())
    return "".join(httpx.get(f"http://{address}/metrics").text for address in targets[0]["targets"])


def metric(page: str, name: str, label: str = "") -> float:
    """The sum over all series of a name that have a label."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{") and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
