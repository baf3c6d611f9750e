"""Serving measured beside what one would serve without raycap, over HTTP, with full-size models of random weights.

Every contestant has the same photos, threads and precision, and runs alone; the load comes from another process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from raycap.benchmarks.featurize import sample_photos
from raycap.benchmarks.load_process import run_load_in_process
from raycap.benchmarks.load_report import LoadReport
from raycap.benchmarks.peers_serve import (
    running_server,
    save_peer_models,
    start_engine_peer,
    start_fastapi_peer,
    start_serve_batch_peer,
)

CLIENTS = (1, 8, 32)
REQUESTS = {1: 8, 8: 40, 32: 128}
PHOTOS = 32
TOKENS, BEAMS = 20, 3
CONFIG = Path(__file__).resolve().parents[2] / "serve_config.yaml"
Start = Callable[[], AbstractContextManager[str]]


def serve_rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Captions a second and latencies of raycap and its peers, at several numbers of clients."""
    threads, rounds, limit_s = 1, 1 if quick else 3, 10.0 if quick else 30.0
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as temporary:
        folder = Path(temporary)
        photos = sample_photos(PHOTOS)
        contestants = starts(folder, threads=threads, layers=2 if quick else 12)
        found: dict[str, dict[int, list[LoadReport]]] = {
            name: {n: [] for n in CLIENTS} for name in contestants
        }
        bare: dict[str, list[float]] = {"bfloat16": [], "int8": []}
        for _ in range(rounds):
            for name, start in contestants.items():
                with start() as url:
                    run_load_in_process(url, photos, clients=4, requests=8, limit_s=limit_s)  # warm
                    for clients, reports in found[name].items():
                        reports.append(
                            run_load_in_process(
                                url, photos, clients=clients, requests=REQUESTS[clients], limit_s=limit_s
                            )
                        )
            for precision, values in bare.items():
                values.append(bare_engine(folder, photos, precision=precision, threads=threads))
        overload = overload_rows(folder / "run", photos, threads=threads, limit_s=limit_s)
    return [*as_rows(found, bare, threads=threads), *overload]


def starts(folder: Path, *, threads: int, layers: int) -> dict[str, Start]:
    """How each contestant is started."""
    models = save_peer_models(folder / "peers", layers=layers)
    run = save_run(folder, layers=layers)
    peer: dict[str, Any] = {"threads": threads, "beams": BEAMS, "dtype": "bfloat16"}

    def ours(**args: Any) -> Start:
        return lambda: start_raycap(run, port=free_port(), threads=threads, args=args)

    return {
        "FastAPI, generate() a request": lambda: start_fastapi_peer(models, port=free_port(), **peer),
        "@serve.batch, generate() a batch": lambda: start_serve_batch_peer(models, port=free_port(), **peer),
        "raycap bfloat16": ours(precision="bfloat16"),
        "raycap's engine in @serve.batch": lambda: start_engine_peer(run, port=free_port(), **peer),
        "raycap int8": ours(precision="int8"),
    }


def as_rows(
    found: dict[str, dict[int, list[LoadReport]]], bare: dict[str, list[float]], *, threads: int
) -> list[dict[str, Any]]:
    """Medians over rounds, and ratios of captions a second to the FastAPI peer's with as many clients."""
    first = next(iter(found.values()))
    sizes = f"photos of about 500 x 375, {BEAMS} beams, {TOKENS} tokens, CLIP ViT-B/32, GPT-2 124M"
    rows: list[dict[str, Any]] = []
    for name, by_clients in found.items():
        for clients, reports in by_clients.items():
            rate, base = _median(reports), _median(first[clients])
            latencies = [
                statistics.median(1e3 * report.latency_s(percent) for report in reports)
                for percent in (50, 95, 99)
            ]
            rows.append(
                {
                    "row": f"{name}, {clients} clients",
                    "value": rate,
                    "unit": "captions/s",
                    "p50_ms": latencies[0],
                    "p95_ms": latencies[1],
                    "p99_ms": latencies[2],
                    "ratio": rate / base,
                    "ratio_to": "FastAPI, as many clients",
                    "threads": threads,
                    "sizes": sizes,
                    "open_at_end": sum(len(report.replies) - len(report.good) for report in reports),
                }
            )
    for precision, values in bare.items():
        rate = statistics.median(values)
        rows.append(
            {
                "row": f"bare engine {precision}, batches of {PHOTOS}, photos decoded in between",
                "value": rate,
                "unit": "captions/s",
                "threads": threads,
                "sizes": sizes,
                "ratio": _median(found[f"raycap {precision}"][32]) / rate,
                "ratio_to": "raycap over HTTP with 32 clients, by this",
            }
        )
    return rows


def _median(reports: list[LoadReport]) -> float:
    return statistics.median(report.throughput for report in reports)


def save_run(folder: Path, *, layers: int) -> Path:
    """A run of full size and random weights, whose captions have TOKENS tokens; its encoder is held in bfloat16."""
    from raycap.benchmarks.featurize import save_clip
    from raycap.benchmarks.synthetic import save_gpt2
    from raycap.checkpoint import EncoderInfo, RunCheckpoints
    from raycap.decoding import DecodingConfig
    from raycap.models.gpt2_cross import Gpt2CrossConfig
    from raycap.vision import EncoderConfig, VisionEncoder

    config = EncoderConfig(name=str(save_clip(folder / "clip")), dtype="bfloat16")
    vision = VisionEncoder(config, device="cpu")
    family = Gpt2CrossConfig(language_model=str(save_gpt2(folder / "gpt2", layers=layers)), head_dim=64)
    tokenizer = family.load_tokenizer()
    RunCheckpoints(str(folder / "run")).save_step(
        family.build(tokenizer=tokenizer, vision_dim=vision.vision_dim),
        model_config=family,
        tokenizer=tokenizer,
        encoder=EncoderInfo(
            config=config,
            fingerprint=vision.fingerprint,
            vision_dim=vision.vision_dim,
            patches=vision.patches,
        ),
        decoding=DecodingConfig(beams=BEAMS, max_tokens=TOKENS, min_tokens=TOKENS - 1),
        metrics={},
        step=1,
        epoch=0,
    )
    return folder / "run"


@contextmanager
def start_raycap(
    run: Path, *, port: int, threads: int, args: dict[str, Any], captioner: dict[str, Any] | None = None
) -> Iterator[str]:
    """`raycap serve` of serve_config.yaml with one replica of so many threads; gives the URL to POST photos to."""
    document = yaml.safe_load(CONFIG.read_text())
    document["http_options"]["port"] = port
    (application,) = document["applications"]
    application["args"] |= {"timeout_s": 120, **args}
    document["http_options"]["request_timeout_s"] = 150
    ingress, own = application["deployments"]
    ingress["num_replicas"] = 1
    del own["autoscaling_config"]
    own |= {"num_replicas": 1, "ray_actor_options": {"num_cpus": threads}, **(captioner or {})}
    config = run.parent / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document))
    log = run.parent / "raycap.log"
    command = [str(Path(sys.executable).with_name("raycap")), "serve", str(config), f"--checkpoint={run}"]
    with running_server(command, threads=threads, log=log, ready=f"http://127.0.0.1:{port}/readyz"):
        yield f"http://127.0.0.1:{port}/v1/caption"


def overload_rows(run: Path, photos: list[bytes], *, threads: int, limit_s: float) -> list[dict[str, Any]]:
    """Ten times more requests than a replica can answer, whose queue is as long as its batch."""
    captioner = {"max_ongoing_requests": 8, "max_queued_requests": 8}
    args = {"max_batch_size": 8, "precision": "int8"}
    with start_raycap(run, port=free_port(), threads=threads, args=args, captioner=captioner) as url:
        run_load_in_process(url, photos, clients=4, requests=8, limit_s=limit_s)  # warm
        alone = run_load_in_process(url, photos, clients=8, requests=64, limit_s=limit_s)
        rate = 10 * alone.throughput
        report = run_load_in_process(
            url, photos, clients=1000, requests=int(rate * 15), limit_s=30 + limit_s, rate=rate
        )
    base, sizes = 1e3 * alone.latency_s(95), f"{rate:.0f} requests/s, statuses {report.statuses}"
    figures = {
        "unloaded (8 clients), p95": base,
        "overloaded, accepted p95": 1e3 * report.latency_s(95),
        "overloaded, refused p50": 1e3 * report.latency_s(50, of=lambda reply: reply.status == 429),
        "overloaded, refused p95": 1e3 * report.latency_s(95, of=lambda reply: reply.status == 429),
    }
    return [
        {
            "row": name,
            "value": value,
            "unit": "ms",
            "ratio": value / base,
            "ratio_to": "unloaded p95",
            "threads": threads,
            "sizes": sizes,
        }
        for name, value in figures.items()
    ]


def bare_engine(folder: Path, photos: list[bytes], *, precision: str, threads: int) -> float:
    """Captions a second of the engine without HTTP, from photos' bytes, in a process of its own."""
    command = [sys.executable, "-m", "raycap.benchmarks.serving", str(folder / "run"), precision]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    lengths = b"".join(len(photo).to_bytes(4, "big") + photo for photo in photos)
    done = subprocess.run(command, input=lengths, env=environment, capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Measure the bare engine: arguments RUN PRECISION, photos on standard input."""
    from raycap.engine import CaptionEngine

    run, precision = sys.argv[1:]
    engine = CaptionEngine.load(run, device="cpu", precision=precision)  # type: ignore[arg-type]
    photos: list[bytes] = []
    while head := sys.stdin.buffer.read(4):
        photos.append(sys.stdin.buffer.read(int.from_bytes(head, "big")))
    engine.caption(photos[:8])  # warm
    begin, rounds = time.perf_counter(), 3
    for _ in range(rounds):
        engine.caption(photos, batch_size=len(photos))
    sys.stdout.write(str(rounds * len(photos) / (time.perf_counter() - begin)))


def free_port() -> int:
    """One that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
