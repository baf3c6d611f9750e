"""What is deployed under load while parts of it die, are replaced, or are too few. Figures are printed (pytest -s)."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ports import free_port
from serving import Service, photo, wait_until
from small_run import make_run

import raycap
import raycap.client
from raycap.benchmarks.load_process import run_load_in_process, start_load
from raycap.benchmarks.load_report import LoadReport
from raycap.engine import CaptionEngine

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PHOTOS = [photo(seed) for seed in range(8)]
HEAVY = {"beams": 10, "min_tokens": 50, "max_tokens": 60}  # a quarter of a second, even for a tiny model


@pytest.fixture(scope="module")
def service(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    from ray import serve

    yield Service(ray_session, free_port(), tmp_path_factory.mktemp("service"))
    serve.shutdown()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three over one encoder; the weights of the last are damaged, its manifest is not."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_run(folder / "first")
    second = make_run(folder / "second", encoder=folder / "first" / "encoder", seed=2)
    shutil.copytree(folder / "second" / "run", folder / "broken")
    (weights,) = (folder / "broken").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7] + b"damaged")
    return [first, second, folder / "broken"]


def expected(run: Path) -> tuple[str, list[str]]:
    """A run's version, and its captions of PHOTOS."""
    engine = CaptionEngine.load(str(run), device="cpu")
    return engine.manifest.digest[:12], [caption.text for caption in engine.caption(PHOTOS)]


def check(report: LoadReport, *versions: tuple[str, list[str]]) -> None:
    """Every request was answered, with the caption of the version that it names."""
    assert report.statuses == {200: len(report.replies)}, report.summary()
    captions = dict(versions)
    for reply in report.replies:
        assert reply.answer["caption"] == captions[reply.answer["version"]][reply.index % len(PHOTOS)]


def show(name: str, **figures: object) -> None:
    print(name, json.dumps(figures, default=str))  # noqa: T201


class Clients:
    """Threads that caption with raycap.Client until they are told to stop, and note every answer."""

    def __init__(self, url: str, count: int) -> None:
        self.client = raycap.Client(url, tries=8)
        self.stopping = threading.Event()
        self.answers: list[tuple[int, raycap.client.Answer]] = []
        self.pool = ThreadPoolExecutor(count)
        self.done = [self.pool.submit(self.work, first) for first in range(count)]

    def work(self, number: int) -> None:
        while not self.stopping.is_set():
            photo_number = number % len(PHOTOS)
            self.answers.append((photo_number, self.client.caption(PHOTOS[photo_number])))
            number += 1

    def stop(self) -> None:
        """Wait for the last answers; raises what a client could not get over."""
        self.stopping.set()
        for future in self.done:
            future.result()
        self.client.close()


def test_every_request_is_answered_while_replicas_and_the_controller_are_killed(
    service: Service, runs: list[Path]
) -> None:
    service.deploy(args={"checkpoint": str(runs[0])}, captioner={"num_replicas": 2})
    service.wait_for("RUNNING")
    wait_until(service.ready, "ready")
    version, captions = expected(runs[0])
    clients = Clients(service.url, 8)
    url, begin, killed = f"{service.url}/v1/caption", time.monotonic(), []
    with start_load(url, PHOTOS, clients=24, requests=100_000, limit_s=150, tries=6) as load:
        for victim in ["#Captioner#", "#Captioner#", "#Ingress#", "SERVE_CONTROLLER_ACTOR"]:
            time.sleep(4)
            service.kill(victim)
            killed.append(time.monotonic() - begin)
        wait_until(lambda: service.running() == 2 and service.running("Ingress") == 2, "replaced")
        time.sleep(2)
        load.stop()
        report = load.report()
    clients.stop()
    check(report, (version, captions))
    assert all(answer.text == captions[number] for number, answer in clients.answers)
    assert {answer.version for _, answer in clients.answers} == {version}
    for at in killed:  # the load went on under each
        assert any(reply.due_s < at < reply.done_s for reply in report.replies)
        assert any(reply.due_s > at for reply in report.replies)
    by_ingress = sum(reply.answer["retries"] for reply in report.replies)
    by_ingress += sum(answer.server_retries for _, answer in clients.answers)
    assert by_ingress > 0  # of the captioners'
    assert report.retries + sum(answer.retries for _, answer in clients.answers) > 0  # of the ingress's
    show(
        "kills",
        retries_by_ingress=by_ingress,
        retries_by_raycaps_client=sum(answer.retries for _, answer in clients.answers),
        answers_to_raycaps_client=len(clients.answers),
        **report.summary(),
    )


def test_a_rolling_update_a_broken_one_and_the_way_back(service: Service, runs: list[Path]) -> None:
    one = {"num_replicas": 1}
    service.deploy(args={"checkpoint": str(runs[0])}, captioner=one)
    service.wait_for("RUNNING")
    wait_until(service.ready, "ready")
    versions = [expected(run) for run in runs[:2]]
    with start_load(
        f"{service.url}/v1/caption", PHOTOS, clients=8, requests=100_000, limit_s=90, rate=12
    ) as load:
        time.sleep(2)
        service.deploy(args={"checkpoint": str(runs[1])}, captioner=one)
        time.sleep(1)
        updated = service.wait_for("RUNNING")
        service.deploy(args={"checkpoint": str(runs[2])}, captioner=one)
        failed = service.wait_for("DEPLOY_FAILED")
        assert "has changed since it was written" in service.message()
        answer = httpx.post(f"{service.url}/v1/caption", content=PHOTOS[0], timeout=60).json()
        assert answer["version"] == versions[1][0]
        service.deploy(args={"checkpoint": str(runs[1])}, captioner=one)  # the one command
        back = service.wait_for("RUNNING")
        load.stop()
        report = load.report()
    check(report, *versions)
    seen = [reply.answer["version"] for reply in report.replies]
    assert set(seen) == {version for version, _ in versions}
    show("rollout", updated_s=updated, failed_s=failed, back_s=back, **report.summary())


def test_replicas_follow_a_load_step_up_and_down(service: Service, runs: list[Path]) -> None:
    """A queue that holds all clients refuses none.

    With 16 places for 32 clients some were: while a new replica is asked how busy it is, requests wait, and most of
    them may wait at one ingress.
    """
    scaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
        "look_back_period_s": 11,  # Serve wants more than its default interval of metrics
    }
    service.deploy(args={"checkpoint": str(runs[0])}, captioner={"autoscaling_config": scaling})
    service.wait_for("RUNNING")
    wait_until(lambda: service.running() == 1 and service.ready(), "one replica")
    with start_load(
        f"{service.url}/v1/caption", PHOTOS, clients=32, requests=100_000, limit_s=120, params=HEAVY
    ) as load:
        up = wait_until(lambda: service.running() == 3, "three replicas", deadline_s=100)
        load.stop()
        report = load.report()
    down = wait_until(lambda: service.running() == 1, "one replica again")
    assert report.statuses == {200: len(report.replies)}, report.summary()
    show("autoscaling", up_s=up, down_s=down, **report.summary())


def test_an_overload_is_refused_and_the_rest_answered(service: Service, runs: list[Path]) -> None:
    service.deploy(
        args={"checkpoint": str(runs[0]), "max_batch_size": 1},
        captioner={"num_replicas": 1, "max_ongoing_requests": 2, "max_queued_requests": 4},
        ingress={"num_replicas": 1},
    )
    service.wait_for("RUNNING")
    wait_until(lambda: service.running() == 1 and service.ready(), "one replica")
    url = f"{service.url}/v1/caption"
    alone = run_load_in_process(url, PHOTOS, clients=1, requests=24, limit_s=60, params=HEAVY)
    assert alone.statuses == {200: 24}
    rate = 10 * alone.throughput
    report = run_load_in_process(
        url, PHOTOS, clients=400, requests=int(rate * 8), limit_s=60, params=HEAVY, rate=rate
    )
    others = [reply.answer for reply in report.replies if reply.status not in (200, 429)]
    assert set(report.statuses) == {200, 429}, (report.summary(), others[:1])
    assert report.without_retry_after == 0
    refused = report.latency_s(50, of=lambda reply: reply.status == 429)
    show(
        "overload",
        unloaded_p95_ms=1e3 * alone.latency_s(95),
        unloaded_throughput=alone.throughput,
        rate=rate,
        refused_p50_ms=1e3 * refused,
        refused_p95_ms=1e3 * report.latency_s(95, of=lambda reply: reply.status == 429),
        **report.summary(),
    )
    assert all(
        reply.answer["error"]["code"] == "overloaded" for reply in report.replies if reply.status == 429
    )
