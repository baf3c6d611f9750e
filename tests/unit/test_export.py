"""Exports: captions without raycap in a fresh process, what each encoder needs for it, and what is refused."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import make_encoder, make_language_model
from fresh import FRESH, alone, up_to_end
from PIL import Image
from safetensors import SafetensorError
from small_run import make_run

from raycap import checkpoint
from raycap.checkpoint import CheckpointError, Manifest
from raycap.config import ConfigError
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine
from raycap.export import ExportConfig, export, verify
from raycap.export.assemble import LOUD, generation_config, with_norm_layer
from raycap.export.card import renamed, snippet, write_card
from raycap.export.plain import PlainCaptioner
from raycap.export.record import RECORD, Record, check_files, read_record
from raycap.models import CaptionModel
from raycap.models.gpt2_cross.model import Gpt2Cross

SETTINGS: list[dict[str, Any]] = [
    {"beams": 1},
    {"beams": 3},
    {"beams": 5, "length_penalty": 0.5},
    {"beams": 3, "no_repeat_ngram": 2, "min_tokens": 4},
]


def photos_in(folder: Path, *, count: int = 6, side: int = 32) -> list[str]:
    """Pictures of random patches as PNG: at the encoder's size, so that nothing is resampled."""
    generator = np.random.default_rng(5)
    paths = []
    for number in range(count):
        patches = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(patches).resize((side, side), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def raycap_tokens(engine: CaptionEngine, photos: list[str], settings: dict[str, Any]) -> list[list[int]]:
    """Token ids of each photo's best caption."""
    features = engine.features([np.asarray(Image.open(photo)) for photo in photos])
    decoder: Any = engine.model._ready_decoder()  # type: ignore[operator]
    with torch.inference_mode():
        found = decoder.caption(features, engine.decoding(**settings))
    return [hypotheses[0].token_ids for hypotheses in found]


def in_generate(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of DecodingConfig as keywords of `generate`."""
    names = {"beams": "num_beams", "no_repeat_ngram": "no_repeat_ngram_size", "min_tokens": "min_new_tokens"}
    return {names.get(name, name): value for name, value in settings.items()}


def make_conv_encoder(folder: Path) -> Path:
    """A MobileNetV2 of random weights: feature maps (1280, 2, 2), wider than any tiny GPT-2."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    config = MobileNetV2Config(image_size=64, depth_multiplier=0.35, finegrained_output=True)
    model = MobileNetV2Model(config).train()
    for _ in range(30):  # batch norms that fit, or 50 random layers let nothing of the picture through
        colours = torch.rand(8, 3, 4, 4) * 2 - 1
        model(F.interpolate(colours, size=64))
    model.eval().save_pretrained(folder)
    processor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 64},
        "do_center_crop": True,
        "crop_size": {"height": 64, "width": 64},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("clip_run"))


@pytest.fixture(scope="module")
def conv_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conv_run")
    return make_run(folder, encoder=make_conv_encoder(folder / "encoder"))


@pytest.fixture(scope="module")
def exports(clip_run: Path, conv_run: Path) -> dict[str, tuple[Path, Path]]:
    """By what they take: (run, exported folder)."""
    made = {}
    for takes, run in (("pixels", clip_run), ("features", conv_run)):
        output = run.parent / "exported"
        assert export(str(run), ExportConfig(output=str(output))) == str(output)
        assert read_record(output).takes == takes
        made[takes] = (run, output)
    return made


SIDES = {"pixels": 32, "features": 64}
"""Of the encoders' pictures, by what their exports take."""


def snippet_in(folder: Path) -> str:
    """The Python of an export's model card."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code
    return code[1]


@pytest.fixture(scope="module", params=SIDES)
def heard(
    request: pytest.FixtureRequest,
    exports: dict[str, tuple[Path, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[CaptionEngine, Path, list[list[list[int]]], str]:
    """raycap's engine, a folder with photos and photo.jpg, and what a process without raycap said of them: the token
    ids of each of SETTINGS, and what the card's snippet printed.
    """
    run, folder = exports[request.param]
    place = tmp_path_factory.mktemp("fresh")
    photos = photos_in(place, side=SIDES[request.param])
    Image.open(photos[0]).save(place / "photo.jpg", quality=95)
    given = json.dumps([in_generate(settings) for settings in SETTINGS])
    code = snippet_in(folder).replace('folder = "exported"', f"folder = {str(folder)!r}")
    script = f"{FRESH}\nexec({code!r}, {{}})"
    tokens, printed = alone(script, str(folder), request.param, given, *photos, folder=place).splitlines()
    return CaptionEngine.load(str(run), device="cpu"), place, json.loads(tokens), printed


def test_a_fresh_process_without_raycap_says_the_same_tokens(
    heard: tuple[CaptionEngine, Path, list[list[list[int]]], str],
) -> None:
    engine, place, found, _ = heard
    photos = sorted(map(str, place.glob("*.png")))
    for settings, rows in zip(SETTINGS, found, strict=True):
        assert [up_to_end(row) for row in rows] == raycap_tokens(engine, photos, settings)
    assert len({tuple(row) for row in found[0]}) > 2


def test_the_cards_snippet_runs_as_it_stands(
    heard: tuple[CaptionEngine, Path, list[list[list[int]]], str],
) -> None:
    engine, place, _, printed = heard
    assert printed == engine.caption(place / "photo.jpg").text.strip()


@pytest.mark.parametrize(("takes", "lines"), [("pixels", 5), ("features", 7)])
def test_a_card_has_a_short_snippet_and_the_metrics(
    exports: dict[str, tuple[Path, Path]], takes: str, lines: int
) -> None:
    folder = exports[takes][1]
    assert len(snippet_in(folder).strip().partition("\n\n")[2].splitlines()) == lines
    assert "| cider_d | 0.1000 |" in (folder / "README.md").read_text()
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_a_clip_tower_carries_the_norm_in_a_layer_of_its_own(tiny_encoder: str, layer: int) -> None:
    from transformers import CLIPVisionModel

    tower = CLIPVisionModel.from_pretrained(tiny_encoder).eval()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = tower(pixels, output_hidden_states=True).hidden_states[layer]
        carried = with_norm_layer(tower, layer=layer)(pixels).last_hidden_state / LOUD
    assert (carried - F.layer_norm(state, state.shape[-1:])).abs().max() < 1e-5


def test_a_layer_that_a_checkpoint_takes_is_the_exports_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, layer=1)
    export(str(run), ExportConfig(output=str(tmp_path / "exported")))
    assert read_record(tmp_path / "exported").equal.endswith("of 16")


def test_another_vision_transformer_leaves_the_norm_to_the_caller(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=32, patch_size=8, initializer_range=0.2, **sizes)
    encoder = make_encoder(tmp_path / "encoder")  # for its image processor
    ViTModel(config, add_pooling_layer=False).save_pretrained(encoder)
    run = make_run(tmp_path, encoder=encoder)
    export(str(run), ExportConfig(output=str(tmp_path / "exported")))
    record = read_record(tmp_path / "exported")
    assert (record.takes, record.equal) == ("features", "16 of 16")
    assert "flatten" not in (tmp_path / "exported" / "README.md").read_text()


def test_an_encoder_in_bfloat16_is_exported_in_float32(tmp_path: Path) -> None:
    """Its features are as far apart as that rounding, so a caption may fall otherwise; of equal features none does."""
    run = make_run(tmp_path, dtype="bfloat16")
    export(str(run), ExportConfig(output=str(tmp_path / "exported")))
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["dtype"] == "float32"


def test_decoding_settings_are_the_generation_config(exports: dict[str, tuple[Path, Path]]) -> None:
    _, folder = exports["pixels"]
    written = json.loads((folder / "generation_config.json").read_text())
    assert written["num_beams"] == 2
    assert written["max_new_tokens"] == 8
    sampled = DecodingConfig(sample=True, n=2, temperature=0.7, top_k=5, top_p=0.9, repetition_penalty=1.2)
    tokenizer = checkpoint.load(str(exports["pixels"][0])).tokenizer
    config = generation_config(sampled, tokenizer)
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 0.7, 5, 0.9)
    assert (config.num_return_sequences, config.repetition_penalty) == (2, 1.2)


def test_what_does_not_say_the_same_is_refused_and_leaves_nothing(
    clip_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confused(self: PlainCaptioner, tokens: list[int]) -> str:
        return "a man"

    monkeypatch.setattr(PlainCaptioner, "text", confused)
    with pytest.raises(CheckpointError, match="does not say what raycap says"):
        export(str(clip_run), ExportConfig(output=str(tmp_path / "exported")))
    assert list(tmp_path.iterdir()) == []


def test_a_family_without_a_plain_form_is_refused_and_exports_as_adapter(
    clip_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gpt2Cross, "to_transformers", CaptionModel.to_transformers)
    with pytest.raises(ConfigError, match="Gpt2Cross has no form in transformers; take --form adapter"):
        export(str(clip_run), ExportConfig(output=str(tmp_path / "exported")))
    assert list(tmp_path.iterdir()) == []
    export(str(clip_run), ExportConfig(output=str(tmp_path / "exported"), form="adapter"))
    assert read_record(tmp_path / "exported").form == "adapter"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    clip_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors raises an error of its own, which ended in a traceback."""

    def full(*arguments: Any, **settings: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(OSError, match=r"the weights cannot be written to .*: I/O error: No space left"):
        export(str(clip_run), ExportConfig(output=str(tmp_path / "exported")))
    assert list(tmp_path.iterdir()) == []


def test_another_encoder_is_noticed(clip_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raycap.export import writing

    real = writing.load_tower

    def noisy(*arguments: Any) -> Any:
        tower = real(*arguments)
        tower.embeddings.patch_embedding.weight.data.mul_(1.3)
        return tower

    monkeypatch.setattr(writing, "load_tower", noisy)
    with pytest.raises(CheckpointError, match="features differ from raycap's by"):
        export(str(clip_run), ExportConfig(output=str(tmp_path / "exported")))


def test_files_of_others_are_never_replaced(clip_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that are no export"):
        export(str(clip_run), ExportConfig(output=str(tmp_path)))
    with pytest.raises(ConfigError, match="is a file"):
        export(str(clip_run), ExportConfig(output=str(tmp_path / "thesis.txt")))
    with pytest.raises(ConfigError, match="is a local folder, not s3://"):
        export(str(clip_run), ExportConfig(output="s3://bucket/exported"))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("theirs", ["thesis.txt", ".git/HEAD"])
def test_an_export_is_replaced_only_where_nothing_else_lies(
    clip_run: Path, tmp_path: Path, theirs: str
) -> None:
    """A folder that held an export was replaced with all that lay beside it, a clone's .git too."""
    config = ExportConfig(output=str(tmp_path / "adapter"), form="adapter")
    export(str(clip_run), config)
    export(str(clip_run), config)
    own = tmp_path / "adapter" / theirs
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    with pytest.raises(ConfigError, match=rf"holds files that are no export \({re.escape(theirs)}\)"):
        export(str(clip_run), config)
    assert own.read_text() == "mine"


def test_behind_a_link_the_folder_is_replaced_that_it_means(clip_run: Path, tmp_path: Path) -> None:
    """The link itself was renamed, and then rmtree failed on it with the export half in place."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    for _ in range(2):
        export(str(clip_run), ExportConfig(output=str(tmp_path / "link"), form="adapter"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / RECORD).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_a_plain_export_names_no_place_of_this_machine(exports: dict[str, tuple[Path, Path]]) -> None:
    """config.json told everybody where the encoder lay on the machine that exported."""
    for run, folder in exports.values():
        texts = [path.read_text() for path in folder.iterdir() if path.suffix in {".json", ".md"}]
        assert len(texts) >= 6
        assert not [text for text in texts if str(run.parent) in text]


def test_a_card_has_front_matter_that_the_hub_reads(exports: dict[str, tuple[Path, Path]]) -> None:
    import yaml

    _, opening, text = (exports["pixels"][1] / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(opening)
    assert (front["library_name"], front["license"]) == ("transformers", "unknown")
    assert "base_model" not in front  # folders of this machine are none of the hub's
    assert text.startswith("# exported\n\nAn image captioner of the family gpt2_cross over encoder and")
    assert "for the terms of encoder and language_model" in text


def test_the_hubs_models_are_named_whole(clip_run: Path, tmp_path: Path) -> None:
    manifest = checkpoint.load(str(clip_run)).manifest
    content = manifest.model_dump(mode="json")
    content["encoder"]["config"]["name"] = "openai/clip-vit-base-patch32"
    content["model"]["language_model"] = "gpt2"
    record = Record(form="adapter", name="my 'own' {one}", checkpoint=manifest.digest)
    write_card(tmp_path, record, Manifest.model_validate(content), feature_map=False)
    card = (tmp_path / "README.md").read_text()
    assert 'base_model: ["openai/clip-vit-base-patch32", "gpt2"]\n' in card
    assert "over openai/clip-vit-base-patch32 and gpt2, trained" in card
    line = next(line for line in card.splitlines() if line.startswith("raycap caption"))
    assert shlex.split(line) == ["raycap", "caption", "photo.jpg", "--checkpoint", record.name]
    assert "--checkpoint hf://me/x\n" in renamed(card, record.name, "me/x")


def test_a_snippet_holds_any_name_of_a_folder() -> None:
    name = """a "b" \\ {c}'s"""
    code = snippet(Record(form="transformers", name=name, takes="pixels", checkpoint=""))
    found = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert name in found


def test_an_adapter_is_a_checkpoint_without_the_state_of_a_resume(clip_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    export(str(clip_run), ExportConfig(output=str(output), form="adapter"))
    manifest = checkpoint.verify(str(output))
    assert not {name for name in manifest.files if name.startswith("training")}
    engine = CaptionEngine.load(str(output), device="cpu")
    photos = photos_in(tmp_path)
    original = CaptionEngine.load(str(clip_run), device="cpu")
    assert engine.caption(photos) == original.caption(photos)
    assert (
        "--encoder PATH/TO/encoder --language-model PATH/TO/language_model --checkpoint adapter\n"
        in (output / "README.md").read_text()
    )
    check_files(output, read_record(output))


def test_an_adapter_names_the_places_that_it_is_given(clip_run: Path, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    language_model = make_language_model(tmp_path / "language_model")
    places = {"encoder": str(encoder), "language_model": str(language_model)}
    export(str(clip_run), ExportConfig(output=str(tmp_path / "adapter"), form="adapter", **places))
    manifest = checkpoint.read_manifest(str(tmp_path / "adapter"))
    assert manifest.encoder.config.name == str(encoder)
    assert manifest.model["language_model"] == str(language_model)


def test_a_changed_missing_or_added_file_is_named(
    exports: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exports["pixels"][1], folder)
    record = read_record(folder)
    check_files(folder, record)
    verify.verify_alone(folder, record)
    (folder / "README.md").write_text("edited")
    check_files(folder, record)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"notes\.txt is no part of the export"):
        check_files(folder, record)
    (folder / "notes.txt").unlink()
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x01")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has changed"):
        check_files(folder, record)
    (folder / RECORD).unlink()
    with pytest.raises(CheckpointError, match="is no export"):
        read_record(folder)
