"""Captions that begin at different steps, with different settings, in one batch: the same as each alone."""

from pathlib import Path

import pytest
import torch
from prepared import make_picture
from small_run import make_run

from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, read_image
from raycap.models import CaptionGroup
from raycap.models.kernels import PRECISIONS, Precision, has_onednn
from raycap.schema import Caption

SETTINGS = [
    DecodingConfig(beams=3, n=3, max_tokens=12),
    DecodingConfig(beams=1, max_tokens=20),
    DecodingConfig(sample=True, n=2, seed=5, temperature=0.7, max_tokens=15),
    DecodingConfig(beams=5, n=2, max_tokens=9, length_penalty=0.0, repetition_penalty=1.3),
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("joining"))


@pytest.fixture(scope="module")
def engine(run: Path) -> CaptionEngine:
    return CaptionEngine.load(str(run), device="cpu")


def features_of(engine: CaptionEngine, count: int) -> torch.Tensor:
    return engine.features([read_image(make_picture(seed)) for seed in range(count)])


def collect(found: dict[int, list[Caption]], group: CaptionGroup) -> None:
    for image, captions in group.take_done():
        assert image not in found
        found[image] = captions


@pytest.mark.parametrize("precision", PRECISIONS)
def test_groups_that_join_one_after_another_give_what_each_gives_alone(
    run: Path, precision: Precision
) -> None:
    if precision == "int8" and not has_onednn():
        pytest.skip("int8 needs oneDNN on an x86 CPU")
    engine = CaptionEngine.load(str(run), device="cpu", precision=precision)
    features = features_of(engine, 3)
    alone = [engine.caption_features(features, decoding) for decoding in SETTINGS]
    groups: list[CaptionGroup] = []
    found: list[dict[int, list[Caption]]] = [{} for _ in SETTINGS]
    for step in range(40):
        if step % 3 == 0 and len(groups) < len(SETTINGS):
            groups.append(engine.start(features, SETTINGS[len(groups)]))
        open_groups = [group for group in groups if group.open_images]
        if not open_groups:
            break
        engine.step(open_groups)
        for index, group in enumerate(groups):
            collect(found[index], group)
    assert not any(group.open_images for group in groups)
    for of_group, expected in zip(found, alone, strict=True):
        together = [of_group[image] for image in range(len(features))]
        if precision == "bfloat16":  # its kernels round by the number of rows on some processors
            assert [len(captions) for captions in together] == [len(captions) for captions in expected]
            continue
        texts = [[caption.text for caption in captions] for captions in together]
        assert texts == [[caption.text for caption in captions] for captions in expected]
        scores = [caption.score for captions in together for caption in captions]
        assert scores == pytest.approx(
            [caption.score for captions in expected for caption in captions], abs=1e-4
        )


@pytest.mark.parametrize("decoding", SETTINGS, ids=["beams", "greedy", "sampling", "penalised"])
def test_a_draft_only_grows_and_becomes_the_caption(engine: CaptionEngine, decoding: DecodingConfig) -> None:
    features = features_of(engine, 4)
    group = engine.start(features, decoding)
    drafts: list[list[str]] = [[""] for _ in features]
    found: dict[int, list[Caption]] = {}
    while group.open_images:
        engine.step([group])
        collect(found, group)
        for image in set(range(len(features))) - set(found):
            drafts[image].append(group.draft(image))
    for image, shown in enumerate(drafts):
        for before, after in zip(shown, [*shown[1:], found[image][0].text], strict=True):
            assert after.startswith(before.rstrip("\ufffd"))
    assert any(shown[-1] for shown in drafts)


def test_dropping_an_image_leaves_the_others_alone(engine: CaptionEngine) -> None:
    features = features_of(engine, 5)
    decoding = SETTINGS[0]
    alone = engine.caption_features(features, decoding)
    group = engine.start(features, decoding)
    found: dict[int, list[Caption]] = {}
    group.drop(1)
    engine.step([group])
    for image in (0, 3):  # the batch shrinks under the others
        group.drop(image)
    assert group.open_images == 2
    while group.open_images:
        engine.step([group])
        collect(found, group)
    assert {image: captions[0].text for image, captions in found.items()} == {
        image: alone[image][0].text for image in (2, 4)
    }


def test_settings_beyond_the_model_are_refused_before_the_first_step(engine: CaptionEngine) -> None:
    with pytest.raises(ValueError, match="max_tokens=65 is above the model's 64"):
        engine.start(features_of(engine, 1), DecodingConfig(max_tokens=65))


def test_too_many_beams_for_the_vocabulary_are_refused_before_the_first_step(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were refused in a step, which failed everybody who took it."""
    engine = CaptionEngine.load(str(run), device="cpu")
    decoder = engine.model._ready_decoder()  # type: ignore[operator]
    monkeypatch.setattr(decoder, "embeddings", decoder.embeddings[:8])
    with pytest.raises(ValueError, match="beams=5 needs a vocabulary of more than 10 tokens, not 8"):
        engine.start(features_of(engine, 1), DecodingConfig(beams=5))


def test_an_engine_beside_another_shares_what_both_have(run: Path, tmp_path: Path) -> None:
    first = CaptionEngine.load(str(run), device="cpu")
    second = CaptionEngine.load(str(run), device="cpu", beside=first)
    assert second.encoder is first.encoder
    ours, theirs = second.model._decoder, first.model._decoder  # type: ignore[attr-defined]
    assert ours.head is theirs.head
    assert all(a.mlp_in is b.mlp_in for a, b in zip(ours.blocks, theirs.blocks, strict=True))
    assert not any(a.output is b.output for a, b in zip(ours.blocks, theirs.blocks, strict=True))
    words = second.model.gpt2.transformer.wte.weight  # type: ignore[union-attr]
    assert words.data_ptr() == first.model.gpt2.transformer.wte.weight.data_ptr()  # type: ignore[union-attr]
    picture = make_picture(3)
    assert second.caption(picture, beams=3) == first.caption(picture, beams=3)
