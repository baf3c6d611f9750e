"""The load generator in a process of its own, so that it takes no turn of the interpreter lock from a server.

Settings and bodies go in as JSON on its standard input, the report comes out as JSON on its standard output.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from raycap.benchmarks.load import Load, send_load
from raycap.benchmarks.load_report import LoadReport

STOP = signal.SIGTERM
START_S = 30.0  # for the interpreter to start and the report to be written, beside the load's own limit


class LoadProcess:
    """A load that runs beside what the caller does meanwhile: `with start_load(...) as load: ...; load.report()`."""

    def __init__(self, load: Load, bodies: Sequence[bytes]) -> None:
        self.load = load
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raycap.benchmarks.load_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        order = {"load": asdict(load), "bodies": [base64.b64encode(body).decode() for body in bodies]}
        with suppress(BrokenPipeError):  # it died at once: report() says so
            self.process.stdin.write(json.dumps(order))
            self.process.stdin.close()
        self.process.stdin = None

    def stop(self) -> None:
        """Let nothing more be sent; `report` then has what was."""
        self.process.send_signal(STOP)

    def report(self) -> LoadReport:
        """What became of the load, when it has ended.

        Raises:
            RuntimeError: the process failed; its standard error says why.
            subprocess.TimeoutExpired: it did not end in time.
        """
        written, _ = self.process.communicate(timeout=self.load.limit_s + START_S)
        if self.process.returncode:
            raise RuntimeError(f"the load generator ended with exit code {self.process.returncode}")
        return LoadReport.from_json(written)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


def start_load(url: str, bodies: Sequence[bytes], **settings: Any) -> LoadProcess:
    """Start a load in a process of its own; the settings are those of `run_load`."""
    return LoadProcess(Load(url, **settings), bodies)


def run_load_in_process(url: str, bodies: Sequence[bytes], **settings: Any) -> LoadReport:
    """`run_load` in a process of its own, to its end."""
    with start_load(url, bodies, **settings) as load:
        return load.report()


def main() -> None:
    """Read an order, send it, write the report."""
    order = json.load(sys.stdin)
    bodies = [base64.b64decode(body) for body in order["bodies"]]
    report = asyncio.run(send_load(Load(**order["load"]), bodies, stop_on=STOP))
    sys.stdout.write(report.to_json())


if __name__ == "__main__":
    main()
