"""The engine: every form of image, featurizing's own features, batches equal to single images, refusals."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import make_encoder
from PIL import Image
from toy_family import make_base, make_toy

import raycap
from raycap import checkpoint
from raycap.checkpoint import EncoderInfo
from raycap.config import ConfigError
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, GivenDecoding, merge_decoding, read_image
from raycap.schema import Caption
from raycap.vision import BadImageError, EncoderConfig, VisionEncoder, decode_image


@dataclass(frozen=True)
class Trained:
    """A checkpoint with what it was made from."""

    path: str
    encoder: VisionEncoder
    base: Path


def train_toy(folder: Path, *, vocabulary: Sequence[int] = ()) -> Trained:
    config = make_base(folder / "base")
    encoder = VisionEncoder(EncoderConfig(name=str(make_encoder(folder / "encoder"))), device="cpu")
    saved = checkpoint.save(
        str(folder / "checkpoint"),
        make_toy(config, vision_dim=encoder.vision_dim),
        model_config=config,
        tokenizer=config.load_tokenizer(),
        encoder=EncoderInfo(
            config=encoder.config,
            fingerprint=encoder.fingerprint,
            vision_dim=encoder.vision_dim,
            patches=encoder.patches,
        ),
        decoding=DecodingConfig(beams=4),
        metrics={},
        step=1,
        epoch=0,
        vocabulary=vocabulary,
    )
    return Trained(saved, encoder, folder / "base")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_toy(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def engine(trained: Trained) -> CaptionEngine:
    return raycap.load(trained.path, device="cpu")


def picture(seed: int, *, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    random = np.random.default_rng(seed)
    flat = np.full((*size, 3), random.integers(0, 256, 3), dtype=np.uint8)
    flat[: size[0] // 2, :, random.integers(3)] = random.integers(0, 256)
    return flat


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_form_of_an_image_gives_the_same_caption(engine: CaptionEngine, tmp_path: Path) -> None:
    pixels = picture(0)
    data = encoded(pixels)
    (tmp_path / "a.png").write_bytes(data)
    forms = [str(tmp_path / "a.png"), tmp_path / "a.png", data, Image.open(io.BytesIO(data)), pixels]
    found = [engine.caption(form) for form in forms]
    assert all(caption == found[0] for caption in found)
    assert isinstance(found[0], Caption)


def test_a_batch_gives_what_single_images_give(engine: CaptionEngine) -> None:
    images = [picture(seed, size=(30 + seed, 64)) for seed in range(7)]
    singles = [engine.caption(image, n=3) for image in images]
    assert len({captions[0].text for captions in singles}) > 1
    for batch_size in (2, 7, 100):
        batch = engine.caption(images, n=3, batch_size=batch_size)
        assert [[c.text for c in captions] for captions in batch] == [[c.text for c in cs] for cs in singles]
    assert engine.caption([]) == []


def test_shapes_of_the_answer(engine: CaptionEngine) -> None:
    image = picture(1)
    best = engine.caption(image)
    assert engine.caption([image]) == [best]
    several = engine.caption(image, n=2)
    assert several[0] == best
    assert several[0].score > several[1].score
    pair = engine.caption((image, image), n=2)
    assert [[c.text for c in captions] for captions in pair] == [[c.text for c in several]] * 2


def test_features_are_those_of_featurizing(engine: CaptionEngine, trained: Trained) -> None:
    """What the engine computes from a file equals what featurizing stores for it, bit for bit."""
    data = encoded(picture(2, size=(70, 50)), "JPEG")
    stored = trained.encoder.encode(trained.encoder.preprocess(decode_image(data))[None])
    assert torch.equal(engine.features([read_image(data)]), stored)
    assert stored.dtype == torch.float16


def test_decoding_settings_override_the_checkpoints(engine: CaptionEngine) -> None:
    assert engine.caption(picture(0)).text.endswith("x4")  # the checkpoint's beams
    assert engine.caption(picture(0), beams=2).text.endswith("x2")
    with pytest.raises(ConfigError, match=r"beam_width: .*not permitted"):
        engine.caption(picture(0), beam_width=3)
    with pytest.raises(ConfigError, match="n=9 captions need beams=9"):
        engine.caption(picture(0), n=9)


def test_given_settings_are_judged_with_the_checkpoints() -> None:
    """`--n 5` and `--temperature 0.7` were refused by the defaults of settings that the checkpoint has otherwise."""
    beams, drawn = DecodingConfig(beams=5), DecodingConfig(sample=True)
    for base, settings in ((beams, {"n": 5}), (drawn, {"temperature": 0.7})):
        given = GivenDecoding.model_validate(settings).model_dump(exclude_unset=True)
        assert given == settings
        assert merge_decoding(base, given) == base.model_copy(update=settings)
    with pytest.raises(ConfigError, match="n=9 captions need beams=9"):
        merge_decoding(beams, {"n": 9})


def test_a_pil_image_is_turned_upright_like_its_file(engine: CaptionEngine) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(3, size=(20, 40)), "JPEG", exif=exif, quality=95)
    from_file = read_image(data)
    assert from_file.shape == (40, 20, 3)
    assert np.array_equal(read_image(Image.open(io.BytesIO(data))), from_file)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_pil_images_of_any_mode(mode: str) -> None:
    image = Image.new("RGB", (8, 6), (200, 30, 90))
    image = Image.new("I;16", (8, 6), 40_000) if mode == "I;16" else image.convert(mode)
    assert read_image(image).shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"not an image", r"image 0: not an image"),
        ("/nowhere/a.jpg", r"no such file: /nowhere/a\.jpg"),
        (np.zeros((4, 4, 3), dtype=np.float32), r"must be uint8 \(height, width, 3\), and this is float32"),
        (np.zeros((4, 4, 5), dtype=np.uint8), r"uint8 \(4, 4, 5\)"),
        (3.5, "and this is float"),
    ],
)
def test_bad_images_are_refused(engine: CaptionEngine, image: object, message: str) -> None:
    with pytest.raises(BadImageError, match=message):
        engine.caption(image)


def test_a_bad_image_in_a_list_is_named(engine: CaptionEngine, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(encoded(picture(0), "JPEG")[:200])
    with pytest.raises(BadImageError, match=r"b\.jpg: damaged image"):
        engine.caption([picture(0), tmp_path / "b.jpg"])
    with pytest.raises(BadImageError, match="image 2: "):
        engine.caption([picture(0), picture(1), b""], batch_size=2)


def test_another_encoder_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = make_encoder(tmp_path / "other", image_size=40)
    with pytest.raises(ConfigError, match="is not the one this checkpoint was trained with"):
        CaptionEngine.load(trained.path, device="cpu", encoder=str(other))


def test_moved_models_are_found(tmp_path: Path) -> None:
    trained = train_toy(tmp_path)
    before = CaptionEngine.load(trained.path, device="cpu").caption(picture(5))
    for name in ("encoder", "base"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    with pytest.raises((ConfigError, OSError)):
        CaptionEngine.load(trained.path, device="cpu")
    moved = CaptionEngine.load(
        trained.path,
        device="cpu",
        encoder=str(tmp_path / "moved-encoder"),
        language_model=str(tmp_path / "moved-base"),
    )
    assert moved.caption(picture(5)) == before


def test_unknown_precision_and_absent_device(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="unknown precision 'fp8'; known: float32, bfloat16, int8"):
        CaptionEngine.load(trained.path, precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        CaptionEngine.load(trained.path, device="tpu")


def test_sizes_that_mean_nothing_are_refused(trained: Trained) -> None:
    """A batch size of -1 gave no caption at all for a list, and an empty array Pillow's own words."""
    engine = CaptionEngine.load(trained.path, device="cpu")
    for size in (0, -1):
        with pytest.raises(ConfigError, match=f"batch_size must be at least 1, and is {size}"):
            engine.caption([picture(1)], batch_size=size)
    with pytest.raises(BadImageError, match=r"image 1: an array must be uint8 .* \(0, 8, 3\)"):
        engine.caption([picture(1), np.zeros((0, 8, 3), np.uint8)])


def test_a_vocabulary_that_cannot_be_cut(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown vocabulary 'few'; known: all, captions"):
        CaptionEngine.load(trained.path, vocabulary="few")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not tell which tokens its training captions use"):
        CaptionEngine.load(trained.path, device="cpu", vocabulary="captions")
    knowing = train_toy(tmp_path, vocabulary=[0, 1, 2])
    with pytest.raises(ConfigError, match="captions in float32 with its whole vocabulary"):
        CaptionEngine.load(knowing.path, device="cpu", vocabulary="captions")
