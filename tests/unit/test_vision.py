"""Decoding, preprocessing equal to the Hugging Face processors, and the frozen encoder."""

import contextlib
import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from raycap.config import ConfigError
from raycap.vision import (
    BadImageError,
    EncoderConfig,
    Preprocessor,
    VisionEncoder,
    choose_device,
    decode_image,
    encoder_fingerprint,
)

ORIENTATION = 0x0112
SIZES = [(500, 375), (375, 500), (640, 231), (120, 480), (97, 131), (224, 224)]  # (width, height)


def photo(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """A smooth picture with edges and fine grain, as photos have."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (240, 30, 60)
    return Image.fromarray(np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif.tobytes())


# ---------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_decodes_as_pillow_does(kind: str) -> None:
    data = encoded(photo(83, 61), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    pixels = decode_image(data)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (61, 83, 3))
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    data = oriented(photo(48, 32), orientation, kind)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(decode_image(data), expected)


def test_malformed_exif_reads_as_upright() -> None:
    data = encoded(photo(20, 16))
    upright = decode_image(data)
    for block in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\0" * 9):
        body = b"Exif\0\0" + block
        segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
        assert np.array_equal(decode_image(data[:2] + segment + data[2:]), upright)


def test_grey_cmyk_and_odd_modes_become_rgb() -> None:
    image = photo(30, 20)
    grey = decode_image(encoded(image.convert("L")))
    assert np.array_equal(grey[..., 0], grey[..., 2])
    cmyk = encoded(image.convert("CMYK"))
    assert np.array_equal(decode_image(cmyk), np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")))
    palette = encoded(image.quantize(16), "PNG", transparency=b"\x00\x80")
    assert decode_image(palette).shape == (20, 30, 3)
    deep = Image.fromarray(np.full((4, 5), 0x80FF, dtype=np.uint16))
    assert np.array_equal(decode_image(encoded(deep, "PNG")), np.full((4, 5, 3), 0x80, dtype=np.uint8))


def test_no_image_cut_and_empty_are_refused_with_a_sentence() -> None:
    whole = encoded(photo(200, 150))
    for data in (
        b"",
        b"not an image at all",
        whole[: len(whole) // 2],
        encoded(photo(200, 150), "PNG")[:900],
    ):
        with pytest.raises(BadImageError, match=r"^(not an image|damaged image)"):
            decode_image(data)


def test_size_is_checked_before_decoding() -> None:
    with pytest.raises(BadImageError, match=r"too large: 60 x 50 pixels, the limit is 2,999 pixels"):
        decode_image(encoded(photo(60, 50)), max_pixels=2999)
    body = b"IHDR" + struct.pack(">IIBBBBB", 28_000, 3_000, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(BadImageError, match=r"too large: 28000 x 3000"):  # damaged, were it decoded
        decode_image(header + struct.pack(">I", 9) + b"IDAT")


def test_strips_are_refused() -> None:
    """A 1 x 3000 strip becomes 224 x 672,000 pixels when its short side is resized."""
    with pytest.raises(BadImageError, match="too elongated: 3000 x 1"):
        decode_image(encoded(Image.new("RGB", (3000, 1))))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of odd metadata, before it gives up
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damaged_bytes_give_pixels_or_a_bad_image_error(kind: str) -> None:
    """Pillow's decoders raise a dozen kinds of error on damaged files; none may escape."""
    data = encoded(photo(64, 48), kind)
    generator = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), 6):
            damaged[position] = generator.integers(0, 256)
        with contextlib.suppress(BadImageError):
            assert decode_image(bytes(damaged)).shape[2] == 3


# ----------------------------------------------------------------------------------------- preprocessing


def processors() -> dict[str, Any]:
    from transformers import (
        BitImageProcessorPil,
        CLIPImageProcessorPil,
        ConvNextImageProcessorPil,
        SiglipImageProcessorPil,
        ViTImageProcessorPil,
    )
    from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import (
        MobileNetV2ImageProcessorPil,
    )

    return {
        "clip": CLIPImageProcessorPil(),
        "clip-336": CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        "crop larger than image": CLIPImageProcessorPil(size={"shortest_edge": 90}),
        "siglip": SiglipImageProcessorPil(),
        "dinov2": BitImageProcessorPil(size={"shortest_edge": 256}),
        "vit": ViTImageProcessorPil(),
        "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        "convnext-384": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
        "mobilenet": MobileNetV2ImageProcessorPil(),
        "lanczos": CLIPImageProcessorPil(resample=1),
        "nearest": CLIPImageProcessorPil(resample=0),
        "unscaled": ViTImageProcessorPil(do_rescale=False, do_normalize=False),
    }


def grey_levels_apart(own: Preprocessor, processor: Any, image: Image.Image) -> np.ndarray[Any, Any]:
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0], dtype=np.float64)
    scale, shift = (np.array(values)[:, None, None] for values in (own.scale, own.shift))
    return np.abs((theirs - shift) / scale - own(np.asarray(image)))


@pytest.mark.parametrize("name", list(processors()))
def test_pixels_are_the_processors_own_within_a_grey_level(name: str, tmp_path: Path) -> None:
    processor = processors()[name]
    processor.save_pretrained(tmp_path)
    own = Preprocessor.load(tmp_path)
    for seed, size in enumerate(SIZES):
        apart = grey_levels_apart(own, processor, photo(*size, seed=seed))
        assert apart.max() < 2.001
        assert (
            apart > 1.001
        ).sum() <= 1  # of 150,000 and more; see Preprocessor for where that one comes from
        assert apart.mean() < 0.01
        assert own(np.asarray(photo(*size))).shape == (3, *own.output_size)


def test_settings_of_old_files_mean_what_their_class_meant(tmp_path: Path) -> None:
    """`size: 224` is a short side for CLIP and a square for ViT."""
    common = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": 224,
    }
    clip = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "crop_size": 224,
        "do_center_crop": True,
        "resample": 3,
    }
    for name, extra in {"clip": clip, "vit": {"feature_extractor_type": "ViTFeatureExtractor"}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps({**common, **extra}))
    assert Preprocessor.load(tmp_path / "clip").short_side == 224
    assert Preprocessor.load(tmp_path / "vit").size == (224, 224)
    assert Preprocessor.load(tmp_path / "vit").fingerprint != Preprocessor.load(tmp_path / "clip").fingerprint


def test_tall_images_follow_pillows_order_of_passes(tmp_path: Path) -> None:
    """Pillow 13 resizes much shortened images vertically first; with the other order values differed by 10."""
    processor = processors()["clip"]
    processor.save_pretrained(tmp_path)
    blocks = np.random.default_rng(1).integers(0, 2, (14, 39, 3), dtype=np.uint8) * 255
    image = Image.fromarray(blocks).resize((308, 670), Image.Resampling.NEAREST)
    assert grey_levels_apart(Preprocessor.load(tmp_path), processor, image).max() < 2.001


def test_a_processor_that_does_something_else_is_refused(tmp_path: Path) -> None:
    from transformers import Siglip2ImageProcessorPil

    Siglip2ImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="Siglip2ImageProcessorPil"):
        Preprocessor.load(tmp_path)
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        Preprocessor.load(tmp_path / "nowhere")


@pytest.mark.real
def test_pixels_of_real_photos(shared: Path, tmp_path: Path) -> None:
    """On 100 original photos: nothing differs by more than two levels, and one value in a million by two."""
    processor = processors()["clip"]
    processor.save_pretrained(tmp_path)
    own = Preprocessor.load(tmp_path)
    files = sorted((shared / "flickr8k-sample/Images").glob("*.jpg"))
    files += sorted((shared / "flickr30k-subset/flickr30k-images").glob("*.jpg"))[:40]
    above = total = 0
    for file in files:
        image = Image.open(file).convert("RGB")
        assert np.array_equal(decode_image(file.read_bytes()), np.asarray(image))
        apart = grey_levels_apart(own, processor, image)
        assert apart.max() < 2.001
        above, total = above + int((apart > 1.001).sum()), total + apart.size
    assert len(files) == 140
    assert above / total <= 1e-6


# ----------------------------------------------------------------------------------------------- encoder


def save_preprocessor(folder: Path, *, size: int) -> None:
    from transformers import CLIPImageProcessorPil

    square = {"height": size, "width": size}
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square).save_pretrained(folder)


VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def models() -> dict[str, Any]:
    import transformers as t

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    resnet = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    return {
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=VISION)),
        "clip tower": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=VISION)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**VISION)),
        "vit classifier": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION)),
        "resnet": lambda: t.ResNetModel(resnet),
        "convnext": lambda: t.ConvNextModel(
            t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
        ),
    }


def save_model(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    models()[name]().save_pretrained(folder)
    save_preprocessor(folder, size=32)
    return folder


@pytest.mark.parametrize(
    ("name", "patches", "vision_dim"),
    [
        ("clip", 17, 24),
        ("clip tower", 17, 24),
        ("siglip", 16, 24),
        ("dinov2", 17, 24),
        ("vit classifier", 17, 24),
        ("resnet", 16, 12),
        ("convnext", 16, 16),
    ],
)
def test_features_are_the_models_own(name: str, patches: int, vision_dim: int, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    save_model(tmp_path, name)
    encoder = VisionEncoder(EncoderConfig(name=str(tmp_path)), device="cpu")
    assert (encoder.patches, encoder.vision_dim) == (patches, vision_dim)
    images = [photo(50, 40, seed=1), photo(40, 60, seed=2)]
    features = encoder.encode(np.stack([encoder.preprocess(np.asarray(image)) for image in images]))
    assert (features.shape, features.dtype) == ((2, patches, vision_dim), torch.float16)

    config = AutoConfig.from_pretrained(tmp_path)
    config = getattr(config, "vision_config", config)
    model = AutoModel.from_pretrained(tmp_path, config=config).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    with torch.no_grad():
        states = model(pixel_values=processor(images, return_tensors="pt")["pixel_values"]).last_hidden_state
    if states.ndim == 4:
        assert torch.allclose(
            features[:, 1].float(), states[:, :, 0, 1], atol=2e-2
        )  # row by row of the picture
        states = states.flatten(2).transpose(1, 2)
    assert torch.allclose(features.float(), states, atol=2e-2)


def test_a_batch_gives_what_single_images_give(tiny_encoder: str) -> None:
    encoder = VisionEncoder(EncoderConfig(name=tiny_encoder), device="cpu")
    pixels = np.stack([encoder.preprocess(np.asarray(photo(50, 40, seed=seed))) for seed in range(5)])
    together = encoder.encode(pixels)
    assert torch.allclose(together, torch.cat([encoder.encode(one[None]) for one in pixels]), atol=2e-3)
    assert torch.equal(together, encoder.encode(torch.from_numpy(pixels)))


def test_layers_and_precisions(tiny_encoder: str) -> None:
    pixels = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    def features(**settings: Any) -> torch.Tensor:
        return (
            VisionEncoder(EncoderConfig(name=tiny_encoder, **settings), device="cpu").encode(pixels).float()
        )

    last = features()
    assert torch.equal(features(layer=2), last)  # two layers: hidden states 0, 1 and 2
    assert torch.equal(features(layer=1), features(layer=-2))
    assert not torch.allclose(features(layer=1), last, atol=0.1)
    assert 0 < (features(dtype="bfloat16") - last).abs().max() < 0.2
    with pytest.raises(ConfigError, match=r"encoder.layer is 3, and .* hidden states 0 to 2"):
        features(layer=3)


def test_overflow_is_clamped_to_finite(tiny_encoder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "loud"))
    weights = load_file(folder / "model.safetensors")
    loud = {name: w * 1e6 if name.endswith("mlp.fc2.weight") else w for name, w in weights.items()}
    save_file(loud, folder / "model.safetensors", metadata={"format": "pt"})
    features = VisionEncoder(EncoderConfig(name=str(folder)), device="cpu").encode(
        np.zeros((1, 3, 32, 32), np.uint8)
    )
    assert torch.isfinite(features).all()
    assert features.abs().max() == 65504


def test_fingerprint_follows_weights_preprocessing_layer_and_dtype(tiny_encoder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "copy"))
    config = EncoderConfig(name=str(copy))
    first = encoder_fingerprint(config)
    assert first == VisionEncoder(config, device="cpu").fingerprint
    assert first == encoder_fingerprint(EncoderConfig(name=tiny_encoder)), (
        "the folder's place must not matter"
    )
    found = {first}
    found.add(encoder_fingerprint(EncoderConfig(name=str(copy), layer=1)))
    found.add(encoder_fingerprint(EncoderConfig(name=str(copy), dtype="bfloat16")))
    preprocessing = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**preprocessing, "resample": 2}))
    found.add(encoder_fingerprint(config))
    weights = load_file(copy / "model.safetensors")
    weights["post_layernorm.bias"] = weights["post_layernorm.bias"] + 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    found.add(encoder_fingerprint(config))
    assert len(found) == 5


def test_what_is_missing_is_named(tiny_encoder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def refusal(name: str) -> str:
        with pytest.raises(ConfigError) as error:
            VisionEncoder(EncoderConfig(name=name), device="cpu")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "'nobody/nothing'" in refusal("nobody/nothing")
    assert "HF_HUB_OFFLINE" in refusal("nobody/nothing")
    assert "no hub id" in refusal("/no/such/folder")
    assert "no config.json" in refusal(str(tmp_path))
    pickled = Path(shutil.copytree(tiny_encoder, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "no model.safetensors" in refusal(str(pickled))
    holed = Path(shutil.copytree(tiny_encoder, tmp_path / "holed"))
    weights = load_file(holed / "model.safetensors")
    del weights["encoder.layers.1.mlp.fc1.weight"]
    save_file(weights, holed / "model.safetensors", metadata={"format": "pt"})
    assert "1 missing or of another shape, first encoder.layers.1.mlp.fc1.weight" in refusal(str(holed))


def test_a_language_model_is_no_encoder(tiny_language_model: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_language_model, tmp_path / "gpt"))
    save_preprocessor(folder, size=32)
    with pytest.raises(ConfigError, match="takes no images"):
        VisionEncoder(EncoderConfig(name=str(folder)), device="cpu")


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device() in {"cpu", "cuda", "mps"}
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' is not on this machine"):
            choose_device("cuda")


@pytest.mark.real
def test_mobilenet_with_real_weights(shared: Path) -> None:
    folder = shared / "models/mobilenet_v2_1.0_224"
    encoder = VisionEncoder(EncoderConfig(name=str(folder)), device="cpu")
    assert (encoder.patches, encoder.vision_dim) == (49, 1280)
    photos = sorted((shared / "flickr8k-sample/Images").glob("*.jpg"))[:2]
    features = encoder.encode(
        np.stack([encoder.preprocess(decode_image(file.read_bytes())) for file in photos])
    )
    assert (
        0.2 < features.float().mean() < 1.0
    )  # ReLU6 outputs of a trained network, neither dead nor saturated
    assert (features[0] - features[1]).abs().float().mean() > 0.1
