"""Everything once, offline, on two cores: drawings in, a caption over HTTP out.

The steps are the commands a user runs by hand afterwards; only the two small models are made here, because CLIP
and GPT-2 cannot be downloaded offline.
"""

from __future__ import annotations

import json
import shlex
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from raycap import storage
from raycap.config import load_document
from raycap.datasets import shapes

Result = TypeVar("Result")
PRESET = "shapes"
screen = Console(stderr=True, highlight=False)


def quickstart(folder: str = "quickstart") -> str:
    """Prepare, featurize, train, evaluate, serve and caption, below `folder`; returns the run folder.

    Finished steps are kept: running again goes on from where it stopped.
    """
    from raycap.data.featurize import FeaturizeConfig, featurize
    from raycap.data.prepare import PrepareConfig, prepare
    from raycap.evaluate import EvaluateConfig, evaluate

    begin = time.monotonic()
    document = place_below(load_document(PRESET), Path(folder).absolute())
    data = step(
        "1 of 6  prepare: draw shapes, write rows", lambda: prepare(PrepareConfig.from_document(document))
    )
    step("2 of 6  train a small encoder and a small GPT-2 from scratch", lambda: make_models(document))
    step(
        "3 of 6  featurize: encode every drawing once",
        lambda: featurize(FeaturizeConfig.from_document(document)),
    )
    run = step("4 of 6  train: LoRA and cross-attention, two workers", lambda: train_or_resume(document))
    report = step(
        "5 of 6  evaluate on the test split",
        lambda: evaluate(
            EvaluateConfig.model_validate(
                {"checkpoint": run, "data": {"path": data}, "evaluate": {"split": "test"}}
            )
        ),
    )
    exact, total = exact_matches(Path(report).with_name("captions.jsonl"))
    answer = step(
        "6 of 6  serve it, and caption a drawing over HTTP", lambda: caption_over_http(run, Path(folder))
    )
    show_summary(
        folder, run, report=report, answer=answer, exact=exact, total=total, seconds=time.monotonic() - begin
    )
    return run


def place_below(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The preset with its paths below another folder than `quickstart`."""
    text = json.dumps(document).replace('"quickstart/', json.dumps(f"{folder}/")[:-1])
    placed: dict[str, Any] = json.loads(text)
    return placed


def step(title: str, work: Callable[[], Result]) -> Result:
    """Announce a step, do it, and say how long it took."""
    screen.rule(f"[bold]{title}", align="left")
    begin = time.monotonic()
    result = work()
    screen.print(f"[dim]{time.monotonic() - begin:.0f} s[/dim]")
    return result


def make_models(document: dict[str, Any]) -> None:
    """Train the two small models unless an earlier quickstart finished them."""
    from raycap.quickstart.models import train_models

    folder = Path(document["encoder"]["name"]).parent
    finished = folder / "finished"
    if not finished.exists():
        train_models(document["data"]["path"], folder, report=screen.print)
        finished.touch()


def train_or_resume(document: dict[str, Any]) -> str:
    """A fresh run, or the rest of one that was interrupted."""
    from raycap.train import TrainConfig, resume, train

    config = TrainConfig.from_document(document)
    if storage.exists(storage.join(config.train.run, "config.yaml")):
        return resume(config.train.run)
    return train(config)


def exact_matches(captions: Path) -> tuple[int, int]:
    """How many captions are true of their drawing, word for word, and how many there are."""
    answers = [json.loads(line) for line in captions.read_text().splitlines()]
    return sum(shapes.is_true(answer["caption"], answer["image_id"]) for answer in answers), len(answers)


def caption_over_http(run: str, folder: Path) -> dict[str, Any]:
    """Start the deployment, post one test drawing to it, and stop it."""
    drawing = folder / "drawing.png"
    shapes.draw(shapes.scene_of(shapes.image_id(0, "test", 0)), side=64).save(drawing)
    with serving(run) as url:
        request = urllib.request.Request(f"{url}/v1/caption", data=drawing.read_bytes(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
    return {**answer, "drawing": str(drawing)}


@contextmanager
def serving(run: str) -> Iterator[str]:
    """The application of serve_config.yaml over one run, on a free port; gives its address."""
    from ray import serve

    from raycap.serve import ServeConfig, build_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(build_app(ServeConfig(checkpoint=run)), name="quickstart")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


def serve_command(run: str) -> str:
    """What serves this run, wherever it lies."""
    return f"raycap serve --checkpoint {shlex.quote(run)}"


def show_summary(
    folder: str, run: str, *, report: str, answer: dict[str, Any], exact: int, total: int, seconds: float
) -> None:
    """Where everything lies, what came out, and what to try next."""
    table = Table(title=f"quickstart finished in {seconds:.0f} s", title_justify="left", show_header=False)
    table.add_row(
        "captions true word for word", f"{exact} of {total} held-out drawings ({exact / total:.0%})"
    )
    table.add_row("over HTTP", f"{answer['drawing']}: [bold]{answer['caption']}[/bold]")
    table.add_row("rows", f"{folder}/data")
    table.add_row("models, features", f"{folder}/models, {folder}/features")
    table.add_row("run (checkpoints, metrics.jsonl, loss.png, curves.png, samples.html)", run)
    table.add_row("report", report)
    screen.print(table)
    screen.print("Next:")
    screen.print(f"  raycap caption --checkpoint {run} {answer['drawing']}", soft_wrap=True)
    screen.print(f"  {serve_command(run)}", soft_wrap=True)
    screen.print("  raycap presets flickr30k      # the same with CLIP, GPT-2 and Flickr30k")
