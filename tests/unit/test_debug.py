"""`raycap debug`: what stands behind a caption is what the model computed, and the report says so."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import captions_of, make_batch, make_encoder, make_language_model
from prepared import make_picture
from small_run import make_run

from raycap import cli
from raycap.config import ConfigError
from raycap.debug import DebugConfig, Study, debug, judge, n_best, study_photo
from raycap.debug.grid import PatchGrid, patch_grid, visible_window
from raycap.debug.report import debug_page, veil
from raycap.debug.said import find_loop
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, GivenDecoding, read_image
from raycap.models.base import CaptionModel
from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.models.gpt2_cross.explain import packed
from raycap.vision import Preprocessor


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("debug"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("photo") / "a <b> photo.jpg"
    file.write_bytes(make_picture(3))
    return str(file)


@pytest.fixture(scope="module")
def engine(run: Path) -> CaptionEngine:
    return CaptionEngine.load(str(run), device="cpu")


@pytest.fixture(scope="module")
def study(engine: CaptionEngine, photo: str) -> Study:
    decoding = engine.decoding(beams=3, n=3)
    return study_photo(engine, read_image(photo), decoding, precision="float32", vocabulary_cut=False)


def levels(study: Study) -> dict[str, str]:
    return {verdict.title: verdict.level for verdict in judge(study)}


def test_explains_the_captions_it_gives(engine: CaptionEngine, photo: str) -> None:
    decoding = engine.decoding(beams=3, n=3)
    features = engine.features([read_image(photo)])
    captions = engine.caption_features(features, decoding)[0]
    explained = engine.model.explain(features, decoding)
    assert [one.caption.text for one in explained] == [caption.text for caption in captions]
    for one, caption in zip(explained, captions, strict=True):
        own = one.log_probabilities.gather(1, torch.tensor(one.token_ids)[:, None]).sum()
        assert float(own) / len(one.token_ids) == pytest.approx(caption.score, abs=1e-4)


def test_token_probabilities_are_those_of_teacher_forcing(engine: CaptionEngine, photo: str) -> None:
    """Each place's distribution is the plain forward's over the tokens before it, one caption at a time."""
    model: Any = engine.model
    features = engine.features([read_image(photo)])
    for one in model.explain(features, engine.decoding(beams=3, n=3)):
        with torch.inference_mode():
            alone = model.logits(packed(model, features, [one.token_ids])).log_softmax(-1)
            for place in range(1, len(one.token_ids)):
                before = model.logits(packed(model, features, [one.token_ids[:place]])).log_softmax(-1)
                assert torch.allclose(before[-1], one.log_probabilities[place - 1], atol=1e-4)
        assert torch.allclose(alone, one.log_probabilities, atol=1e-4)


def test_attention_sums_to_one_and_makes_what_cross_attention_adds(study: Study) -> None:
    best = study.best
    assert best
    assert best.attention.shape == (2, 2, len(best.token_ids), 17)
    assert torch.allclose(best.attention.sum(-1), torch.ones(2, 2, len(best.token_ids)), atol=1e-5)
    assert best.image_share.shape == (2, len(best.token_ids))
    assert best.gates.numel() == 0


def test_weights_are_those_that_forward_uses(tiny_language_model: str) -> None:
    """The maps are not of some other attention: values mixed by them give forward's own output."""
    from raycap.models.layers import PackedTokens, merge_heads

    config = Gpt2CrossConfig(language_model=tiny_language_model)
    model = config.build(tokenizer=config.load_tokenizer(), vision_dim=24).eval()
    batch = make_batch(model.tokenizer, captions_of(2, per_image=2))
    layout, layer = PackedTokens(batch), model.cross[0]
    torch.nn.init.normal_(layer.output.weight)
    features = model.normalise(batch["features"])
    hidden = torch.randn(len(layout.images.cells), 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = layer.weights(hidden, features, layout)  # (real, heads, patches)
        spread = layout.images.spread(weights.flatten(1)).view(2, -1, 2, 5).transpose(1, 2)
        mixed = merge_heads(spread @ layer.project(features)[1])
        expected = layer.output(layout.images.collect(mixed))
        assert torch.allclose(layer(hidden, features, layout), expected, atol=1e-5)


def test_explaining_leaves_nothing_behind(engine: CaptionEngine, photo: str) -> None:
    model: Any = engine.model
    model.explain(engine.features([read_image(photo)]), engine.decoding())
    assert not any(layer._forward_hooks for layer in model.cross)


def test_gates_are_told(tmp_path: Path) -> None:
    config = Gpt2CrossConfig(language_model=str(make_language_model(tmp_path)), start="gate")
    model = config.build(tokenizer=config.load_tokenizer(), vision_dim=24).eval()
    model.cross[1].gate.data.fill_(0.5)
    (one,) = model.explain(torch.randn(1, 5, 24).half(), DecodingConfig(beams=1, max_tokens=5))
    assert one.gates.tolist() == pytest.approx([0.0, float(np.tanh(0.5))])
    assert one.image_share[0].max() == 0


def test_a_caption_cut_off_has_no_end_token(engine: CaptionEngine, photo: str) -> None:
    features = engine.features([read_image(photo)])
    (one,) = engine.model.explain(features, engine.decoding(beams=1, max_tokens=2, min_tokens=1))
    assert len(one.token_ids) == 2
    assert one.log_probabilities.shape[0] == one.attention.shape[2] == 2


def test_report_names_the_caption_and_escapes_what_others_wrote(
    run: Path, photo: str, tmp_path: Path, engine: CaptionEngine
) -> None:
    config = DebugConfig(checkpoint=str(run), device="cpu", output=str(tmp_path / "out/debug.html"))
    path, study, _ = debug(photo, config)
    page = Path(path).read_text(encoding="utf-8")
    assert study.captions[0].text == engine.caption(photo).text
    assert f"<p class=caption>{html.escape(study.captions[0].text)}</p>" in page
    assert "<b> photo" not in page
    assert "a &lt;b&gt; photo.jpg" in page
    assert not re.findall(r"https?://", page)
    assert "<script" not in page
    assert page.count("<article>") == len(study.best.token_ids)  # type: ignore[union-attr]
    assert page.count('class="map map-0"') == len(study.best.token_ids)  # type: ignore[union-attr]
    assert "on no place" in page  # CLIP's CLS token


def test_command_prints_the_path_alone(
    run: Path, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "debug.html"
    cli.main(["debug", photo, "--checkpoint", str(run), "--beams", "1", "--output", str(output)])
    printed = capsys.readouterr()
    assert printed.out == f"{output}\n"
    assert printed.err.startswith("caption: ")
    assert output.is_file()


def test_a_photo_that_is_none_is_one_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["debug", "/nowhere.jpg", "--checkpoint", str(run)])
    assert capsys.readouterr().err == "raycap: no such file: /nowhere.jpg\n"


def test_a_family_that_explains_nothing_gets_the_rest(study: Study, engine: CaptionEngine) -> None:
    assert CaptionModel.explain(engine.model, torch.zeros(1, 17, 24), study.decoding) == []
    silent = dataclasses.replace(study, explanations=[])
    page = debug_page(silent, judge(silent), photo="p.jpg", path="P", alternatives=3)
    assert "does not tell token by token" in page
    assert html.escape(study.captions[0].text) in page
    assert "End at the first token" not in levels(silent)
    assert {"Features", "What is cropped away", "Does the photo matter?"} <= set(levels(silent))


def test_n_best_is_as_wide_as_the_search(engine: CaptionEngine) -> None:
    assert n_best(engine, GivenDecoding()).n == 2
    assert n_best(engine, GivenDecoding(beams=8)).n == 5
    assert n_best(engine, GivenDecoding(beams=8, n=1)).n == 1
    assert n_best(engine, GivenDecoding(sample=True, temperature=0.5)).n == 1
    with pytest.raises(ConfigError, match="n=4 captions need beams=4"):
        n_best(engine, GivenDecoding(n=4))


@pytest.mark.parametrize(
    ("patches", "size", "patch_size", "grid"),
    [
        (49, (224, 224), 0, PatchGrid(0, 7, 7)),  # a convolutional encoder
        (50, (224, 224), 32, PatchGrid(1, 7, 7)),  # CLIP
        (50, (224, 224), 0, PatchGrid(1, 7, 7)),
        (261, (224, 224), 14, PatchGrid(5, 16, 16)),  # DINOv2 with registers
        (196, (224, 224), 16, PatchGrid(0, 14, 14)),  # SigLIP
        (49, (224, 224), 4, PatchGrid(0, 7, 7)),  # Swin: patches are joined on the way
        (77, (224, 352), 0, PatchGrid(0, 7, 11)),  # not square
        (63, (224, 224), 0, None),
    ],
)
def test_patches_lie_where_the_encoder_has_them(
    patches: int, size: tuple[int, int], patch_size: int, grid: PatchGrid | None
) -> None:
    assert patch_grid(patches, size=size, patch_size=patch_size) == grid


def test_a_map_lies_row_by_row_behind_the_leading_patches() -> None:
    weights = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.4, 0.0, 0.1])
    darkness = veil(weights, PatchGrid(1, 2, 3))[:, :, 1]
    assert darkness.shape == (2, 3)
    assert darkness[1, 0] == 0  # the strongest place, not CLS
    assert (darkness[0] == darkness.max()).all()
    assert 0 < darkness[1, 2] < darkness.max()


def test_the_window_is_what_the_crop_leaves() -> None:
    settings: dict[str, Any] = {"resample": 3, "scale": (1, 1, 1), "shift": (0, 0, 0)}
    crops = Preprocessor(short_side=256, size=(0, 0), crop=(224, 224), **settings)
    window = visible_window(crops, height=300, width=900)
    assert (window.width, window.height) == pytest.approx((224 / 768, 224 / 256))
    assert window.left == pytest.approx((1 - window.width) / 2)
    warps = Preprocessor(short_side=0, size=(224, 224), crop=(0, 0), **settings)
    assert visible_window(warps, height=300, width=900).share == 1


def test_the_window_shows_the_encoders_own_pixels(engine: CaptionEngine) -> None:
    """A mark at the edge of the window is at the edge of the encoder's input, outside it nowhere."""
    photo = np.zeros((60, 180, 3), dtype=np.uint8)
    window = visible_window(engine.encoder.preprocess, height=60, width=180)
    begin = round(window.left * 180)
    photo[:, :begin] = 255
    assert engine.preprocess(photo)[:, :, 2:].max() < 30
    photo[:, begin : begin + 20] = 255
    assert engine.preprocess(photo)[:, :, :8].min() > 200


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("a dog dog dog runs", ["dog"]),
        ("a man and a man and a man and a man", ["a", "man", "and"]),
        ("a man and a woman and a child", []),
        ("", []),
    ],
)
def test_loops_are_found(text: str, loop: list[str]) -> None:
    assert find_loop(text.split()) == loop


def altered(study: Study, **changes: Any) -> Study:
    """The study with its best explanation changed."""
    assert study.best
    best = dataclasses.replace(study.best, **changes)
    captions = [best.caption, *study.captions[1:]]
    return dataclasses.replace(study, explanations=[best, *study.explanations[1:]], captions=captions)


def test_verdicts_name_what_is_wrong(study: Study) -> None:
    best = study.best
    assert best
    ends = best.log_probabilities.clone()
    ends[0] = -20.0
    ends[0, study.tokenizer.end_id] = -0.01
    assert levels(altered(study, log_probabilities=ends))["End at the first token"] == "bad"
    empty = dataclasses.replace(best.caption, text="")
    assert levels(altered(study, caption=empty))["End at the first token"] == "bad"
    looping = dataclasses.replace(best.caption, text="A dog dog dog.")
    assert levels(altered(study, caption=looping))["Repetition"] == "bad"  # "dog." is no other word
    looping = dataclasses.replace(best.caption, text="a red dog a red dog a red dog is here")
    found = levels(altered(study, caption=looping))
    assert (found["Repetition"], found["Phrases said twice"]) == ("bad", "warn")
    assert levels(altered(study, gates=torch.tensor([0.001, -0.002])))["Gates"] == "bad"
    assert levels(altered(study, gates=torch.tensor([0.4, -0.6])))["Gates"] == "good"
    assert levels(altered(study, image_share=torch.zeros(2, 3)))["The image's part"] == "bad"
    even = torch.full_like(best.attention, 1 / 17)
    assert levels(altered(study, attention=even))["Attention"] == "warn"
    assert levels(altered(study, token_ids=[7] * len(best.token_ids)))["Ending"] == "warn"
    same = dataclasses.replace(study, grey_caption=study.captions[0].text)
    assert levels(same)["Does the photo matter?"] == "bad"
    assert "Gates" not in levels(study)


def test_verdicts_on_features_photo_and_training(study: Study) -> None:
    broken = study.features.clone()
    broken[0, 0] = torch.nan
    assert levels(dataclasses.replace(study, features=broken))["Numbers"] == "bad"
    alike = study.features[:1].expand_as(study.features)
    assert levels(dataclasses.replace(study, features=alike))["Features"] == "warn"
    assert levels(dataclasses.replace(study, features=study.grey_features))["Features"] == "bad"
    flat = np.full_like(study.encoder_input, 90) + np.array(
        [0, 60, 0], dtype=np.uint8
    )  # green: colour is no contrast
    assert levels(dataclasses.replace(study, encoder_input=flat))["Contrast"] == "bad"
    narrow = dataclasses.replace(study.window, width=0.3)
    assert levels(dataclasses.replace(study, window=narrow))["What is cropped away"] == "bad"
    assert levels(dataclasses.replace(study, stretch=0.4))["Size and proportions"] == "warn"
    assert levels(study)["Training"] == "warn"  # seven steps
    trained = study.manifest.model_copy(update={"step": 5000, "metrics": {"cider_d": 0.6}})
    assert levels(dataclasses.replace(study, manifest=trained))["Training"] == "good"
    pressed = DecodingConfig(beams=3, n=3, max_tokens=5, length_penalty=-1)
    assert levels(dataclasses.replace(study, decoding=pressed))["Decoding settings"] == "warn"


def test_a_cut_vocabulary_that_hides_words_is_told(study: Study) -> None:
    best = study.best
    assert best
    likely = int(best.log_probabilities[0].argmax())
    others = tuple(token for token in range(best.log_probabilities.shape[1]) if token != likely)
    cut = dataclasses.replace(study, vocabulary=others, vocabulary_cut=True)
    outside = float(best.log_probabilities[:, likely].exp().max())
    assert levels(cut)["Vocabulary"] == ("warn" if outside > 0.1 else "good")
    assert levels(dataclasses.replace(cut, vocabulary_cut=False))["Vocabulary"] == "good"
    assert "Vocabulary" not in levels(study)  # this checkpoint does not tell


def test_healthy_checks_are_the_same_in_any_precision(run: Path, photo: str, tmp_path: Path) -> None:
    """The plain float32 forward explains captions whatever the decoder runs in."""
    config = DebugConfig(
        checkpoint=str(run), device="cpu", precision="bfloat16", output=str(tmp_path / "d.html")
    )
    _, study, _ = debug(photo, config)
    assert study.best
    assert study.best.log_probabilities.dtype == torch.float32
    assert levels(study)["Decoder against the plain model"] in {"good", "warn"}


def test_a_moved_encoder_is_followed(run: Path, photo: str, tmp_path: Path) -> None:
    moved = make_encoder(tmp_path / "elsewhere")
    config = DebugConfig(
        checkpoint=str(run), device="cpu", encoder=str(moved), output=str(tmp_path / "d.html")
    )
    assert Path(debug(photo, config)[0]).is_file()
