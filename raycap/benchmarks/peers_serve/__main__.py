"""`python -m raycap.benchmarks.peers_serve KIND FOLDER --port ...`: a peer, until SIGTERM."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cyclopts

from raycap.benchmarks.peers_serve import Dtype


def main(
    kind: Literal["fastapi", "serve-batch", "serve-batch-raycap"],
    folder: Path,
    *,
    port: int,
    threads: int,
    beams: int = 3,
    dtype: Dtype = "float32",
) -> None:
    """Serve a peer over the models in a folder."""
    if kind == "fastapi":
        from raycap.benchmarks.peers_serve import fastapi_app
        from raycap.benchmarks.peers_serve.model import PeerCaptioner

        captioner = PeerCaptioner(folder, threads=threads, beams=beams, dtype=dtype)
        fastapi_app.run(captioner, port=port)
    else:
        from raycap.benchmarks.peers_serve import serve_batch

        own = kind == "serve-batch-raycap"
        serve_batch.run(folder, port=port, threads=threads, beams=beams, dtype=dtype, own=own)


if __name__ == "__main__":
    cyclopts.run(main)
