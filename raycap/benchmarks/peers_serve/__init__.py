"""What one would serve without raycap, to measure beside it: transformers behind FastAPI, and behind `@serve.batch`.

Each peer runs in a process of its own over the same weights (model.py), which `save_peer_models` makes once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

COMPLETE = "complete"  # a file that is there when the models are
START_S = 180.0
STOP_S = 60.0
Dtype = Literal["float32", "bfloat16"]


def save_peer_models(folder: Path, *, layers: int = 12) -> Path:
    """CLIP ViT-B/32 and GPT-2 124M with cross-attention (12 layers), random, and their tokenizer: once for a folder."""
    from raycap.benchmarks.decoders import random_gpt2
    from raycap.benchmarks.featurize import save_clip
    from raycap.benchmarks.synthetic import tokenizer

    complete = folder / COMPLETE
    if not complete.exists():
        save_clip(folder / "clip")
        random_gpt2(layers=layers).save_pretrained(folder / "gpt2")
        tokenizer().save(folder / "gpt2")
        complete.touch()
    return folder


def start_fastapi_peer(
    folder: Path, *, port: int, threads: int, beams: int = 3, dtype: Dtype = "float32"
) -> AbstractContextManager[str]:
    """FastAPI that calls generate() for each request, one after another; gives the URL to POST photos to.

    Raises:
        ValueError: the folder has no models.
        RuntimeError: it does not start; the message ends with its log (FOLDER/fastapi.log).
    """
    return _peer("fastapi", folder, port=port, threads=threads, beams=beams, dtype=dtype)


def start_serve_batch_peer(
    folder: Path, *, port: int, threads: int, beams: int = 3, dtype: Dtype = "float32"
) -> AbstractContextManager[str]:
    """Ray Serve with a plain `@serve.batch` around generate(), on a Ray of its own; else as `start_fastapi_peer`."""
    return _peer("serve-batch", folder, port=port, threads=threads, beams=beams, dtype=dtype)


def start_engine_peer(
    run: Path, *, port: int, threads: int, beams: int = 3, dtype: Dtype = "float32"
) -> AbstractContextManager[str]:
    """`start_serve_batch_peer` around raycap's engine: what the scheduler is measured against."""
    return _peer("serve-batch-raycap", run, port=port, threads=threads, beams=beams, dtype=dtype)


@contextmanager
def _peer(kind: str, folder: Path, *, port: int, threads: int, beams: int, dtype: Dtype) -> Iterator[str]:
    """A peer that answers, until the block ends."""
    if kind != "serve-batch-raycap" and not (folder / COMPLETE).exists():
        raise ValueError(f"no models in {folder}; make them with save_peer_models")
    arguments = [kind, str(folder), f"--port={port}", f"--threads={threads}", f"--beams={beams}"]
    command = [sys.executable, "-m", "raycap.benchmarks.peers_serve", *arguments, f"--dtype={dtype}"]
    log, ready = folder / f"{kind}.log", f"http://127.0.0.1:{port}/healthz"
    with running_server(command, threads=threads, log=log, ready=ready):
        yield f"http://127.0.0.1:{port}/v1/caption"


@contextmanager
def running_server(command: list[str], *, threads: int, log: Path, ready: str) -> Iterator[None]:
    """A server that is measured, in a process of its own, from when the URL `ready` answers to the block's end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(threads))
        try:
            _wait_until_ready(process, ready, log)
            yield
        finally:
            _stop(process)


def _environment(threads: int) -> dict[str, str]:
    """Of a server that is measured: a Ray of its own, so many threads."""
    defaults = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {**defaults, **os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    environment.pop("RAY_ADDRESS", None)
    return environment


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns when the peer answers."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)  # it does not listen yet, or has no replica yet
    raise RuntimeError(
        f"the peer ended, or was silent for {START_S:g} s; its log ends:\n{log.read_text()[-2000:]}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then make it end."""
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
