"""Progress on the terminal of whoever started the run, wherever the workers are.

Rank 0 posts to a small actor; a thread beside `fit()` reads it and draws on stderr: a bar on a terminal,
a line every few seconds elsewhere (logs of `ray job submit`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from raycap.data.progress import clock_time

POLL_S = 0.5
PLAIN_EVERY_S = 10.0


@ray.remote(num_cpus=0)
class BoardActor:
    """The newest state and the lines not yet read."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.lines: list[str] = []

    def show(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        self.state = state

    def say(self, text: str) -> None:
        """Add a line."""
        self.lines.append(text)

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """The state, and the lines since the last read."""
        lines, self.lines = self.lines, []
        return self.state, lines


class Board:
    """Where the workers and the controller put what the terminal should show; never waits."""

    def __init__(self, actor: Any = None) -> None:
        self.actor = BoardActor.remote() if actor is None else actor  # type: ignore[attr-defined]

    def show(self, state: Mapping[str, Any]) -> None:
        """Replace what the bar shows."""
        self.actor.show.remote(dict(state))

    def say(self, text: str) -> None:
        """Print a line once."""
        self.actor.say.remote(text)

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """The state, and the lines since the last read."""
        state, lines = ray.get(self.actor.read.remote(), timeout=10)
        return state, lines


class BoardHandler(logging.Handler):
    """Puts warnings of a worker on the terminal."""

    def __init__(self, board: Board) -> None:
        super().__init__(logging.WARNING)
        self.board = board

    def emit(self, record: logging.LogRecord) -> None:
        """Post one record."""
        self.board.say(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def watched(board: Board, *, console: Console | None = None) -> Iterator[None]:
    """Draw what the board shows for as long as the block runs."""
    console = console or Console(stderr=True)
    done = threading.Event()
    draw = draw_bar if console.is_terminal else draw_lines
    thread = threading.Thread(target=draw, args=(board, console, done), name="raycap-screen", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=15)


def describe(state: Mapping[str, Any]) -> str:
    """The state in one line."""
    if not state:
        return "starting the workers"
    place = f"epoch {state['epoch']}/{state['epochs']}  step {state['step']}"
    left = f"{100 * state['share']:.0f} %  left {clock_time(state['left_s'])}"
    if state["phase"]:
        return f"{place}  {state['phase']}  {left}"
    return (
        f"{place}  loss {state['loss']:.3f}  lr {state['lr']:.1e}  {state['images_per_s']:.0f} images/s  "
        f"{state['tokens_per_s'] / 1000:.1f}k tokens/s  {left}"
    )


def draw_bar(board: Board, console: Console, done: threading.Event) -> None:
    """For a terminal: a bar that moves, lines above it."""
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(describe({}), total=1.0)
        for state, lines in _states(board, done):
            for line in lines:
                progress.console.print(line, highlight=False, markup=False)
            progress.update(task, completed=state.get("share", 0.0), description=describe(state))


def draw_lines(board: Board, console: Console, done: threading.Event) -> None:
    """For a log: lines as they come, and how far the run is every few seconds."""
    shown, text = time.monotonic(), ""
    for state, lines in _states(board, done):
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if lines:
            text = describe(state)  # what the lines say is newer
        elif state and time.monotonic() - shown >= PLAIN_EVERY_S and describe(state) != text:
            shown, text = time.monotonic(), describe(state)
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def _states(board: Board, done: threading.Event) -> Iterator[tuple[dict[str, Any], list[str]]]:
    last = False
    while not last:
        last = done.wait(POLL_S)  # one more look after the end, for the last lines
        try:
            yield board.read()
        except ray.exceptions.RayError:  # the cluster went away, and fit() itself says why
            return
