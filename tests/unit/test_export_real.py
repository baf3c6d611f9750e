"""An export of a really trained run on real photos, in a process without raycap, against raycap itself.

Which run, the environment variable RAYCAP_REAL_RUN says: a run takes an hour of training, and none lies in shared/.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh import FRESH, alone, up_to_end

from raycap.engine import CaptionEngine, read_image
from raycap.export import ExportConfig, export
from raycap.export.record import read_record

# Several minutes each on two free cores, and on busy ones more than the ten that every other test gets.
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(3600)]
SETTINGS: list[dict[str, Any]] = [{"num_beams": 5}, {"num_beams": 1}]


def share_of_equal(engine: CaptionEngine, photos: list[str], folder: Path, setting: dict[str, Any]) -> float:
    """Share of photos whose tokens are raycap's, from file to tokens."""
    takes = read_record(folder).takes
    printed = alone(FRESH, str(folder), takes, json.dumps([setting]), *photos, folder=folder.parent)
    theirs = [up_to_end(row) for row in json.loads(printed)[0]]
    ours = []
    decoder: Any = engine.model._ready_decoder()  # type: ignore[operator]
    decoding = engine.decoding(beams=setting["num_beams"])
    for begin in range(0, len(photos), 16):
        features = engine.features([read_image(photo) for photo in photos[begin : begin + 16]])
        with torch.inference_mode():
            ours += [found[0].token_ids for found in decoder.caption(features, decoding)]
    equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
    print(f"{folder.name} {setting}: {equal} of {len(photos)} equal")  # noqa: T201
    return equal / len(photos)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaptionEngine, Path]:
    run = os.environ.get("RAYCAP_REAL_RUN", "")
    if not run:
        pytest.skip("RAYCAP_REAL_RUN names no trained run")
    output = tmp_path_factory.mktemp("real") / "exported"
    export(run, ExportConfig(output=str(output)))
    return CaptionEngine.load(run, device="cpu"), output


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_validation_photo_gets_raycaps_tokens(
    exported: tuple[CaptionEngine, Path], shared: Path, setting: dict[str, Any]
) -> None:
    images = json.loads((shared / "flickr30k-subset" / "dataset_flickr30k.json").read_text())["images"]
    names = [image["filename"] for image in images if image["split"] == "val"]
    photos = [str(shared / "flickr30k-subset" / "flickr30k-images" / name) for name in names]
    assert len(photos) == 242
    assert share_of_equal(exported[0], photos, exported[1], setting) == 1.0


def test_photos_that_are_resampled_get_raycaps_tokens_but_for_near_ties(
    exported: tuple[CaptionEngine, Path], shared: Path
) -> None:
    """raycap's resampling moves one value in 250 by one grey level from Pillow's, which the export uses."""
    photos = sorted(map(str, (shared / "flickr8k-sample" / "Images").glob("*.jpg")))[:40]
    assert share_of_equal(exported[0], photos, exported[1], SETTINGS[0]) >= 0.9
