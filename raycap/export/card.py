"""The model card of an export: what it is, how well it does, and a snippet that needs nothing of raycap.

Tests run the snippet as it stands. The card calls the export by its record's name, the folder's; `renamed` puts a
repository of the hub in its place.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from raycap.checkpoint import Manifest
from raycap.export.record import CARD, Record

OPENING = """\
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel{imports}

{folder}
model = VisionEncoderDecoderModel.from_pretrained(folder)
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(photo, return_tensors="pt").pixel_values
"""
OF_FEATURES = """\
states = model.encoder(pixels{more}).{states}{tokens}.half().float()  # (1, patches, width)
features = BaseModelOutput(layer_norm(states, states.shape[-1:]))
"""
CLOSING = """\
print(AutoTokenizer.from_pretrained(folder).decode(model.generate({given})[0], skip_special_tokens=True).strip())
"""
FEATURE_IMPORTS = """
from torch.nn.functional import layer_norm
from transformers.modeling_outputs import BaseModelOutput"""


def snippet(record: Record, *, feature_map: bool = False) -> str:
    """Python that captions photo.jpg with the export; `feature_map`: the encoder gives one."""
    folder = _in_snippet(record.name)
    if record.takes == "pixels":
        return OPENING.format(imports="", folder=folder) + CLOSING.format(given="pixels")
    deep = record.layer != -1
    middle = OF_FEATURES.format(
        more=", output_hidden_states=True" if deep else "",
        states=f"hidden_states[{record.layer}]" if deep else "last_hidden_state",
        tokens=".flatten(2).mT" if feature_map else "",
    )
    opening = OPENING.format(imports=FEATURE_IMPORTS, folder=folder)
    return opening + middle + CLOSING.format(given="encoder_outputs=features")


def write_card(folder: Path, record: Record, manifest: Manifest, *, feature_map: bool) -> None:
    """Write README.md."""
    parts = [
        _header(record, manifest),
        _plain_form(record, feature_map)
        if record.form == "transformers"
        else _adapter_form(record, manifest),
        _metrics(manifest),
        _decoding(manifest),
        _terms(manifest),
    ]
    (folder / CARD).write_text("\n".join(parts), encoding="utf-8")


def renamed(card: str, name: str, repository: str) -> str:
    """A card that calls the export `repository`, which lies on the hub, where it called it `name`."""
    for before, after in (
        (_title(name), _title(repository)),
        (_in_snippet(name), _in_snippet(repository)),
        (_in_command(name), _in_command(f"hf://{repository}")),
    ):
        card = card.replace(before, after)
    return card


def _title(name: str) -> str:
    return f"\n# {name}\n"


def _in_snippet(name: str) -> str:
    return f"folder = {json.dumps(name, ensure_ascii=False)}"


def _in_command(name: str) -> str:
    return f"--checkpoint {shlex.quote(name)}\n"


HEADER = """\
---
pipeline_tag: image-to-text
library_name: {library}
license: unknown
{base_models}tags: [image-captioning, raycap]
---
{title}
An image captioner of the family {family} over {models}, trained with raycap (step {step}; {versions}).
"""
ADAPTER = """\
What was trained, and no more. {where}

```bash
raycap caption photo.jpg {flags}{checkpoint}raycap serve {checkpoint}```
"""
BY_NAME = "What it was trained over is looked for on the Hugging Face Hub by its name."
IN_FOLDERS = """\
It needs the very models it was trained over; say where they lie on your machine, to `raycap serve` as `encoder` and
`language_model` under `args` in serve_config.yaml."""
REQUIRED = """\
Needs no more than `torch`, `pillow` and `transformers` (this was tried with {version}).
"""
CARRIED = """\
The trained norm of the image features is the encoder's last layer (attention zero, MLP the identity of its norm, times
2^24, which the cross-attention divides by): load it in float32 or bfloat16, float16 cannot hold that.
"""
OUTSIDE = """\
The trained norm of the image features stands in the snippet (`layer_norm`; its scale and shift are in the weights),
since `VisionEncoderDecoderModel` has no place for it: `generate(pixel_values=...)` alone gives other captions or fails.
"""
FOLDED = """\
Adapters, gates and projections are merged into GPT-2's own weights. When this was exported, {equal} captions of test
pictures were those of raycap from file to text. What can turn a near tie there: raycap rounds features to 16 bits
(the snippet does too where it has `half`), and resizes photos with other rounding, one value in 250 by one grey level.
"""
METRICS = """\
On the validation images of its training (whose captions may have been decoded with fewer beams than below):

| metric | value |
|---|---|
{rows}
"""
TERMS = """\
## Terms and limits

No licence is stated: raycap cannot know one. Whoever passes this on answers for the terms of {models}, and of the
photos and captions it was trained on, some of which are for research only (Flickr30k's and Flickr8k's photos are);
edit this file to say them.

Captions are guesses in the manner of the training captions. They can be wrong, name people by looks, and repeat the
prejudices of those who wrote the captions; do not rely on them where a mistake does harm.
"""


def _header(record: Record, manifest: Manifest) -> str:
    names = [name for name in _base_models(manifest).values() if on_hub(name)]
    return HEADER.format(
        title=_title(record.name).lstrip(),
        library="transformers" if record.form == "transformers" else "raycap",
        base_models=f"base_model: {json.dumps(names)}\n" if names else "",
        family=manifest.family,
        models=_models(manifest),
        step=manifest.step,
        versions=", ".join(f"{library} {version}" for library, version in manifest.versions.items()),
    )


def _base_models(manifest: Manifest) -> dict[str, str]:
    """What it was trained over, as the manifest names it, by the flag that says where it lies now."""
    given = {"encoder": manifest.encoder.config.name, "language-model": manifest.model.get("language_model")}
    return {flag: model for flag, model in given.items() if model}


def on_hub(model: str) -> bool:
    """Whether a model's name means a repository of the hub, not a folder of the machine that trained."""
    return not Path(model).expanduser().is_dir() and model.count("/") <= 1 and model[0] not in "/~."


def _called(model: str) -> str:
    return model if on_hub(model) else Path(model).name


def _models(manifest: Manifest) -> str:
    return " and ".join(map(_called, _base_models(manifest).values()))


def _plain_form(record: Record, feature_map: bool) -> str:
    from transformers import __version__ as version

    code = snippet(record, feature_map=feature_map)
    carried = CARRIED if record.takes == "pixels" else OUTSIDE
    required = REQUIRED.format(version=version)
    return f"```python\n{code}```\n\n{required}{carried}{FOLDED.format(equal=record.equal)}"


def _adapter_form(record: Record, manifest: Manifest) -> str:
    flags = [
        f"--{flag} {shlex.quote(f'PATH/TO/{_called(model)}')} "
        for flag, model in _base_models(manifest).items()
        if not on_hub(model)
    ]
    return ADAPTER.format(
        where=IN_FOLDERS if flags else BY_NAME, flags="".join(flags), checkpoint=_in_command(record.name)
    )


def _metrics(manifest: Manifest) -> str:
    rows = [f"| {metric} | {value:.4f} |" for metric, value in sorted(manifest.metrics.items())]
    return METRICS.format(rows="\n".join(rows))


def _decoding(manifest: Manifest) -> str:
    given = ", ".join(f"{key} {value}" for key, value in manifest.decoding.model_dump().items())
    return f"Decoding: {given}.\n"


def _terms(manifest: Manifest) -> str:
    return TERMS.format(models=_models(manifest))
