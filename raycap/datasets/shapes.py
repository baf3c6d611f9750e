"""Drawings of coloured shapes, made by raycap itself, with captions that are true of them by construction.

A drawing follows from its image id alone (seed, split and number), so what is in it can be told again
anywhere: `is_true` says whether a caption is one of all those that are true of a drawing, which gives the
exact-match figure of the quickstart.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from PIL import Image, ImageDraw
from pydantic import Field

from raycap.datasets.base import RawRecord, Source

COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "yellow": (240, 220, 40),
    "purple": (140, 50, 170),
    "orange": (245, 135, 30),
}
BACKGROUNDS = {"white": (244, 244, 244), "grey": (128, 128, 128), "black": (14, 14, 14)}
SHAPES = ("circle", "square", "triangle", "star")
RADII = {"small": 0.105, "large": 0.19}  # shares of the drawing's side
PLACES = (  # by row, then by column
    ("in the top left corner", "at the top", "in the top right corner"),
    ("on the left", "in the middle", "on the right"),
    ("in the bottom left corner", "at the bottom", "in the bottom right corner"),
)
GRID = (0.25, 0.5, 0.75)
RELATIONS = {"to the left of": "to the right of", "above": "below"}  # each with its inverse
NUMBERS = {2: "two", 3: "three", 4: "four"}
CAPTIONS = 5
SUPERSAMPLING = 4  # drawn larger and averaged, for smooth edges


class Thing(NamedTuple):
    """One shape of a drawing; lengths are shares of the side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float  # radians
    rgb: tuple[int, int, int]

    @property
    def short(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def full(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


class Scene(NamedTuple):
    """What is in a drawing: one thing at a place, two in a relation, or several alike."""

    kind: str  # "one", "two" or "group"
    things: tuple[Thing, ...]
    where: str  # the place of one thing, or the relation of the first of two to the second
    background: str
    rgb: tuple[int, int, int]


class ShapesSource(Source):
    """Drawings with one to four shapes on a plain background, five captions each; nothing to download."""

    kind: Literal["shapes"] = "shapes"
    train: int = Field(default=2000, ge=0)
    """Drawings to train on."""
    val: int = Field(default=200, ge=0)
    """Drawings to validate on."""
    test: int = Field(default=200, ge=0)
    """Drawings to test on."""
    size: int = Field(default=64, ge=32, le=1024)
    """Side of a drawing in pixels."""
    seed: int = Field(default=0, ge=0)
    """Other seeds give other drawings."""

    def records(self) -> Iterator[RawRecord]:
        for split, count in (("train", self.train), ("val", self.val), ("test", self.test)):
            for number in range(count):
                yield RawRecord(image_id(self.seed, split, number), split, "", [], row=number)

    def read(self, record: RawRecord) -> tuple[bytes, list[Any]]:
        scene = scene_of(record.image_id)
        captions = random.Random(f"captions of {record.image_id}").sample(true_captions(scene), CAPTIONS)
        stream = io.BytesIO()
        draw(scene, side=self.size).save(stream, format="PNG")
        return stream.getvalue(), captions


def image_id(seed: int, split: str, number: int) -> str:
    """The id that a drawing follows from."""
    return f"shapes-{seed}-{split}-{number:06d}"


def scene_of(image_id: str) -> Scene:
    """What the drawing with this id shows.

    Raises:
        ValueError: not the id of a drawing.
    """
    if not image_id.startswith("shapes-"):
        raise ValueError(f"{image_id!r} is not the id of a drawing, such as shapes-0-test-000012")
    rng = random.Random(image_id)
    background = rng.choice(list(BACKGROUNDS))
    kind = rng.choices(("one", "two", "group"), weights=(7, 8, 5))[0]
    make = {"one": _one, "two": _two, "group": _group}[kind]
    things, where = make(rng)
    return Scene(kind, things, where, background, _vary(rng, BACKGROUNDS[background], by=8))


def true_captions(scene: Scene) -> list[str]:
    """Every caption in raycap's own wording that is true of a drawing."""
    ground = f"on a {scene.background} background"
    first = scene.things[0]
    if scene.kind == "one":
        short, full = _a(first.short), _a(first.full)
        return [
            f"{short} {scene.where}",
            f"{full} {scene.where}",
            f"{full} {ground}",
            f"{full} {scene.where} {ground}",
            f"there is {short} {scene.where}",
            f"there is {full} {scene.where}",
        ]
    if scene.kind == "group":
        short, full = (f"{NUMBERS[len(scene.things)]} {name}s" for name in (first.short, first.full))
        return [
            short,
            full,
            f"{short} {ground}",
            f"{full} {ground}",
            f"there are {full}",
            f"a group of {short}",
        ]
    second, inverse = scene.things[1], RELATIONS[scene.where]
    return [*_pair(first, scene.where, second, ground), *_pair(second, inverse, first, ground)]


def is_true(caption: str, image_id: str) -> bool:
    """Whether a caption, case and full stop aside, is one of all captions that are true of a drawing."""
    return " ".join(caption.lower().rstrip(" .").split()) in true_captions(scene_of(image_id))


def draw(scene: Scene, *, side: int) -> Image.Image:
    """The drawing, RGB, `side` pixels high and wide."""
    large = side * SUPERSAMPLING
    canvas = Image.new("RGB", (large, large), scene.rgb)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        if thing.shape == "circle":
            pen.circle((thing.x * large, thing.y * large), thing.radius * large, fill=thing.rgb)
        else:
            pen.polygon([(x * large, y * large) for x, y in _corners(thing)], fill=thing.rgb)
    return canvas.reduce(SUPERSAMPLING)


def _pair(first: Thing, relation: str, second: Thing, ground: str) -> list[str]:
    return [
        f"{_a(first.short)} {relation} {_a(second.short)}",
        f"{_a(first.full)} {relation} {_a(second.full)}",
        f"there is {_a(first.short)} {relation} {_a(second.short)}",
        f"{_a(first.short)} {relation} {_a(second.short)} {ground}",
        f"{_a(first.full)} and {_a(second.full)}",
    ]


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _one(rng: random.Random) -> tuple[tuple[Thing, ...], str]:
    row, column = rng.randrange(3), rng.randrange(3)
    return (_thing(rng, _look(rng), GRID[column], GRID[row]),), PLACES[row][column]


def _two(rng: random.Random) -> tuple[tuple[Thing, ...], str]:
    relation = rng.choice(list(RELATIONS))
    first = second = _look(rng)
    while first[:2] == second[:2]:  # two of one shape and colour could not be told apart in words
        second = _look(rng)
    across = 0.5 + rng.uniform(-0.15, 0.15)
    spots = [(GRID[0], across), (GRID[2], across)]
    if relation == "above":
        spots = [(y, x) for x, y in spots]
    things = tuple(_thing(rng, look, *spot) for look, spot in zip((first, second), spots, strict=True))
    return things, relation


def _group(rng: random.Random) -> tuple[tuple[Thing, ...], str]:
    look = _look(rng)
    spots = rng.sample([(x, y) for x in GRID[::2] for y in GRID[::2]], k=rng.choice(list(NUMBERS)))
    return tuple(_thing(rng, look, x, y) for x, y in spots), ""


def _look(rng: random.Random) -> tuple[str, str, str]:
    """Shape, colour and size."""
    return rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(list(RADII))


def _thing(rng: random.Random, look: tuple[str, str, str], x: float, y: float) -> Thing:
    shape, colour, size = look
    return Thing(
        shape,
        colour,
        size,
        x + rng.uniform(-0.04, 0.04),
        y + rng.uniform(-0.04, 0.04),
        RADII[size] * rng.uniform(0.92, 1.08),
        rng.uniform(-0.15, 0.15),
        _vary(rng, COLOURS[colour], by=14),
    )


def _vary(rng: random.Random, rgb: tuple[int, int, int], *, by: int) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, value + rng.randint(-by, by))) for value in rgb)
    return red, green, blue


def _corners(thing: Thing) -> Iterator[tuple[float, float]]:
    """Corners of a polygon around its centre, clockwise from the top, y downwards."""
    turns = {"square": 4, "triangle": 3, "star": 10}[thing.shape]
    offset = math.pi / 4 if thing.shape == "square" else 0.0
    for corner in range(turns):
        radius = thing.radius * (0.42 if thing.shape == "star" and corner % 2 else 1.0)
        angle = thing.angle + offset + 2 * math.pi * corner / turns
        yield thing.x + radius * math.sin(angle), thing.y - radius * math.cos(angle)
