"""A whole CLIP from the run's encoder: embeddings as transformers gives them, CLIPScores, and why there may be none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import make_clip, make_encoder
from safetensors.torch import load_file, save_file

from raycap.evaluate.captioning import clip_scores
from raycap.vision import EncoderConfig, VisionEncoder
from raycap.vision.clip import Clip, ClipUnavailableError, find_clip

TEXTS = ["a red dog", "A photo depicts two people on a hill.", "a star", "a tree " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


def pixels_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def test_embeddings_are_transformers_own(folder: Path) -> None:
    """Batched, padded and cut texts, and images normalised from uint8, as one by one by hand."""
    from transformers import CLIPModel, CLIPTokenizer

    clip = Clip.load(EncoderConfig(name=str(folder)), device="cpu")
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    found = clip.embed_texts(TEXTS)
    assert found.shape == (4, 12)
    for text, embedding in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")["input_ids"]
        assert ids.shape[1] <= 16
        with torch.inference_mode():
            expected = model.get_text_features(input_ids=ids).pooler_output[0]
        np.testing.assert_allclose(embedding, expected.numpy(), atol=1e-4)
    assert not np.allclose(found[0], found[2], atol=0.1)

    pixels = pixels_of(3)
    mean, std = (
        np.array(values)[:, None, None]
        for values in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    normalised = torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32))
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=normalised).pooler_output
    np.testing.assert_allclose(clip.embed_images(pixels), expected.numpy(), atol=1e-3)


def test_scores_follow_the_paper(folder: Path) -> None:
    """w = 2.5, the prompt, clipping, and the harmonic mean with the nearest reference, by hand."""
    clip = Clip.load(EncoderConfig(name=str(folder)), device="cpu")
    pixels = pixels_of(6)
    captions = ["a red dog", "two people", "a star", "a tree on a hill", "a small house", "here"]
    references = [
        ["a red dog", "a bike"],
        ["a tree"],
        ["here", "a man", "a star is here"],
        ["x"],
        ["y"],
        ["z"],
    ]

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    def embed(text: str) -> np.ndarray:
        return clip.embed_texts([f"A photo depicts {text}"])[0]

    # Random towers may point away from each other, and all scores would be clipped to zero.
    if cosine(clip.embed_images(pixels[:1])[0], embed(captions[0])) < 0:
        with torch.no_grad():
            clip.model.visual_projection.weight.neg_()
    found = clip_scores(clip, pixels, captions, references)
    for index, caption in enumerate(captions):
        said = embed(caption)
        score = 2.5 * max(cosine(clip.embed_images(pixels[index : index + 1])[0], said), 0)
        nearest = max(max(cosine(said, embed(text)) for text in references[index]), 0)
        both = 2 * score * nearest / (score + nearest) if score + nearest else 0.0
        assert found["clip_score"][index] == pytest.approx(score, abs=1e-5)
        assert found["ref_clip_score"][index] == pytest.approx(both, abs=1e-5)
    assert found["clip_score"].max() > 0


def test_the_image_tower_of_a_whole_clip_is_the_encoder(folder: Path) -> None:
    encoder = VisionEncoder(EncoderConfig(name=str(folder)), device="cpu")
    assert (encoder.patches, encoder.vision_dim) == (17, 24)
    assert find_clip(encoder.config) == folder


def test_what_is_no_whole_clip_says_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    tower = make_encoder(tmp_path / "tower")
    with pytest.raises(ClipUnavailableError, match=r"encoder .*tower is a model of type 'clip_vision_model'"):
        find_clip(EncoderConfig(name=str(tower)))
    with pytest.raises(ClipUnavailableError, match="no encoder 'nobody/nothing'"):
        find_clip(EncoderConfig(name="nobody/nothing"))

    mute = tmp_path / "mute"
    mute.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (mute / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(
        ClipUnavailableError, match=r"needs CLIP's tokenizer, and the run's encoder .*mute has none"
    ):
        find_clip(EncoderConfig(name=str(mute)))

    kept = {
        name: value for name, value in load_file(mute / "model.safetensors").items() if "text_" not in name
    }
    save_file(kept, mute / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ClipUnavailableError, match="have no text tower"):
        find_clip(EncoderConfig(name=str(mute)))
    assert json.loads((mute / "config.json").read_text())["model_type"] == "clip"
