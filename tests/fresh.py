"""Captions from an export in a process that has transformers, torch and pillow, what they require, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

# Arguments: the folder, "pixels" or "features", a JSON list of settings of generate, photos. Prints all token ids.
FRESH = """
import json, sys
import numpy, PIL, torch, transformers  # nothing else
from PIL import Image
from torch.nn.functional import layer_norm
from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

folder, takes, settings, *photos = sys.argv[1:]
torch.set_num_threads(1)
model = VisionEncoderDecoderModel.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder, backend="pil")


@torch.no_grad()
def prepare(photos):
    pixels = processor([Image.open(photo).convert("RGB") for photo in photos], return_tensors="pt").pixel_values
    if takes == "pixels":
        return pixels
    states = model.encoder(pixels).last_hidden_state
    states = (states.flatten(2).mT if states.ndim == 4 else states).half().float()
    return layer_norm(states, states.shape[-1:])


def caption(ready, setting):
    # an output anew each time: generate repeats its states in place, once for each beam
    given = {"pixel_values": ready} if takes == "pixels" else {"encoder_outputs": BaseModelOutput(ready)}
    return model.generate(**given, **setting).tolist()


batches = [prepare(photos[begin : begin + 16]) for begin in range(0, len(photos), 16)]
rows = [[row for batch in batches for row in caption(batch, setting)] for setting in json.loads(settings)]
for absent in ("raycap", "ray", "peft", "pyarrow"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise AssertionError(absent + " is here")
print(json.dumps(rows))
"""


def required(names: list[str]) -> set[str]:
    """These distributions and all that they require without extras, as far as they are installed."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found:
            continue
        try:
            requirements = map(Requirement, distribution(name).requires or [])
        except PackageNotFoundError:
            continue
        found.add(name)
        names += [
            one.name.lower() for one in requirements if not one.marker or one.marker.evaluate({"extra": ""})
        ]
    return found


def bare_packages(folder: Path) -> Path:
    """A folder of links to the packages that `pip install transformers torch pillow` would bring."""
    packages = folder / "packages"
    packages.mkdir()
    for name in required(["transformers", "torch", "pillow"]):
        installed = distribution(name)
        for entry in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            link = packages / entry
            if not link.exists():
                link.symlink_to(Path(str(installed.locate_file(entry))))
    return packages


def alone(script: str, *arguments: str, folder: Path) -> str:
    """Stdout of a script run in a folder by a Python that has only `bare_packages`."""
    packages = folder / "packages" if (folder / "packages").is_dir() else bare_packages(folder)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-S", "-c", script, *arguments]  # -S: without the environment's own packages
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def up_to_end(row: list[int], *, end: int = 0) -> list[int]:
    """Token ids between the start token and the first end token."""
    rest = [*row[1:], end]
    return rest[: rest.index(end)]
