"""The model card of an export: what it is, how well it does, and a snippet that needs nothing of raycap.

Tests run the snippet as it stands.
"""

from __future__ import annotations

from pathlib import Path

from raycap.checkpoint import Manifest
from raycap.export.record import Record

OPENING = """\
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel{imports}

folder = "{folder}"
model = VisionEncoderDecoderModel.from_pretrained(folder)
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(photo, return_tensors="pt").pixel_values
"""
OF_PIXELS = "tokens = model.generate(pixels)\n"
OF_FEATURES = """\
states = model.encoder(pixels{more}).{states}{tokens}.half().float()  # (1, patches, width)
features = BaseModelOutput(layer_norm(states, states.shape[-1:]))
tokens = model.generate(encoder_outputs=features)
"""
CLOSING = (
    "print(AutoTokenizer.from_pretrained(folder).batch_decode(tokens, skip_special_tokens=True)[0].strip())\n"
)
FEATURE_IMPORTS = """
from torch.nn.functional import layer_norm
from transformers.modeling_outputs import BaseModelOutput"""


def snippet(record: Record, *, folder: str, feature_map: bool = False) -> str:
    """Python that captions photo.jpg with the export in `folder`; `feature_map`: the encoder gives one."""
    if record.takes == "pixels":
        return OPENING.format(imports="", folder=folder) + OF_PIXELS + CLOSING
    deep = record.layer != -1
    middle = OF_FEATURES.format(
        more=", output_hidden_states=True" if deep else "",
        states=f"hidden_states[{record.layer}]" if deep else "last_hidden_state",
        tokens=".flatten(2).mT" if feature_map else "",
    )
    return OPENING.format(imports=FEATURE_IMPORTS, folder=folder) + middle + CLOSING


def write_card(folder: Path, record: Record, manifest: Manifest, *, name: str, feature_map: bool) -> None:
    """Write README.md; `name` heads it and stands for the folder in its snippet."""
    text = HEADER.format(
        name=name,
        library="transformers" if record.form == "transformers" else "raycap",
        encoder=Path(manifest.encoder.config.name).name,
        language_model=Path(str(manifest.model.get("language_model", manifest.family))).name,
        step=manifest.step,
        versions=", ".join(f"{library} {version}" for library, version in manifest.versions.items()),
    )
    body = (
        _plain_form(record, name, feature_map) if record.form == "transformers" else ADAPTER.format(name=name)
    )
    (folder / "README.md").write_text(
        text + body + _metrics(manifest) + _decoding(manifest), encoding="utf-8"
    )


HEADER = """\
---
pipeline_tag: image-to-text
library_name: {library}
tags: [image-captioning, raycap]
---
# {name}

An image captioner: the image encoder {encoder} and the language model {language_model} joined by cross-attention,
trained with raycap (step {step}; {versions}).

"""
ADAPTER = """\
What was trained, and no more: the encoder and the language model are looked for by their names.

```bash
raycap caption photo.jpg --checkpoint hf://{name}
raycap serve --checkpoint hf://{name}
```

Where they lie elsewhere: `--encoder FOLDER --language-model FOLDER`.

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


def _plain_form(record: Record, name: str, feature_map: bool) -> str:
    code = snippet(record, folder=name, feature_map=feature_map)
    carried = CARRIED if record.takes == "pixels" else OUTSIDE
    return f"```python\n{code}```\n\n{carried}{FOLDED.format(equal=record.equal)}"


def _metrics(manifest: Manifest) -> str:
    rows = [f"| {metric} | {value:.4f} |" for metric, value in sorted(manifest.metrics.items())]
    return "\n".join(
        ["On the validation images of its training:", "", "| metric | value |", "|---|---|", *rows, "", ""]
    )


def _decoding(manifest: Manifest) -> str:
    given = ", ".join(f"{key} {value}" for key, value in manifest.decoding.model_dump().items())
    return f"Decoding: {given}.\n"
