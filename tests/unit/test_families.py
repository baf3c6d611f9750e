"""What every family of FAMILIES must do; a new one is picked up from there and needs a line in TINY."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import captions_of, make_batch

from raycap.decoding import DecodingConfig
from raycap.models import FAMILIES, CaptionModel, FamilyConfig, select_family
from raycap.schema import IGNORE_INDEX, CaptionBatch
from raycap.text import CaptionTokenizer

VISION_DIM = 24
GREEDY = DecodingConfig(beams=1, max_tokens=20, length_penalty=0.0)
BEAMS = DecodingConfig(beams=3, n=2, max_tokens=20)

# The smallest settings of each family; LM stands for the folder of the tiny language model.
LM = "LM"
TINY: dict[str, dict[str, Any]] = {
    "gpt2_cross": {"language_model": LM, "head_dim": 8, "dropout": 0.0, "lora": {"rank": 4}},
}
OWN = [name for name, config in FAMILIES.items() if config.__module__.startswith("raycap.")]


@pytest.fixture(scope="module", params=OWN)
def config(request: pytest.FixtureRequest, tiny_language_model: str) -> FamilyConfig:
    assert request.param in TINY, f"give {request.param} its smallest settings in TINY"
    settings = {
        name: tiny_language_model if value == LM else value for name, value in TINY[request.param].items()
    }
    return select_family({"family": request.param, **settings})


@pytest.fixture(scope="module")
def tokenizer(config: FamilyConfig) -> CaptionTokenizer:
    return config.load_tokenizer()


def build(config: FamilyConfig, tokenizer: CaptionTokenizer, *, seed: int = 0) -> CaptionModel:
    torch.manual_seed(seed)
    return config.build(tokenizer=tokenizer, vision_dim=VISION_DIM)


EIGHT = captions_of(8, per_image=1)


@pytest.fixture(scope="module")
def batch(tokenizer: CaptionTokenizer) -> CaptionBatch:
    return make_batch(tokenizer, EIGHT, vision_dim=VISION_DIM)


@pytest.fixture(scope="module")
def trained(config: FamilyConfig, tokenizer: CaptionTokenizer, batch: CaptionBatch) -> CaptionModel:
    """Trained on eight images until it knows them by heart."""
    model = build(config, tokenizer).train()
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in model.parameter_groups().values()], lr=1e-2, weight_decay=0.0
    )
    for _ in range(120):
        optimizer.zero_grad()
        output = model(batch)
        (output.loss_sum / output.count).backward()
        optimizer.step()
    return model.eval()


def test_overfits_eight_images(trained: CaptionModel, batch: CaptionBatch) -> None:
    with torch.no_grad():
        output = trained(batch)
    assert output.loss_sum / output.count < 0.02
    found = trained.caption(batch["features"], GREEDY)
    assert [[caption.text for caption in of_image] for of_image in found] == EIGHT


def test_exactly_the_intended_parameters_train(
    config: FamilyConfig, tokenizer: CaptionTokenizer, batch: CaptionBatch
) -> None:
    model = build(config, tokenizer).train()
    grouped = [parameter for group in model.parameter_groups().values() for parameter in group]
    intended = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(intended)
    assert intended <= set(model.saved_state())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(grouped, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).loss_sum.backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == intended


def test_padding_does_not_change_the_loss(
    trained: CaptionModel, tokenizer: CaptionTokenizer, batch: CaptionBatch
) -> None:
    fills = {
        "input_ids": tokenizer.end_id,
        "labels": IGNORE_INDEX,
        "position_ids": 0,
        "caption_index": -1,
    }
    wider: dict[str, Any] = dict(batch)
    for name, fill in fills.items():
        tokens = wider[name]
        wider[name] = torch.cat([tokens, tokens.new_full((len(tokens), 9), fill)], dim=1)
    with torch.no_grad():
        plain, padded = trained(batch), trained(wider)
    assert plain.count == padded.count
    assert padded.loss_sum.item() == pytest.approx(plain.loss_sum.item(), rel=1e-5)


@pytest.mark.parametrize("decoding", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_saved_and_loaded_it_captions_the_same(
    trained: CaptionModel,
    config: FamilyConfig,
    tokenizer: CaptionTokenizer,
    batch: CaptionBatch,
    decoding: DecodingConfig,
) -> None:
    again = build(config, tokenizer, seed=1).eval()
    assert again.caption(batch["features"], decoding) != trained.caption(batch["features"], decoding)
    again.load_saved_state({name: tensor.clone() for name, tensor in trained.saved_state().items()})
    assert again.caption(batch["features"], decoding) == trained.caption(batch["features"], decoding)


@pytest.mark.parametrize("decoding", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_batch_is_captioned_like_its_images_one_by_one(
    trained: CaptionModel, batch: CaptionBatch, decoding: DecodingConfig
) -> None:
    together = trained.caption(batch["features"], decoding)
    for index, of_image in enumerate(together):
        (alone,) = trained.caption(batch["features"][index : index + 1], decoding)
        assert [caption.text for caption in of_image] == [caption.text for caption in alone]
        assert [c.score for c in of_image] == pytest.approx([c.score for c in alone], abs=1e-4)


def test_step_by_step_decoding_is_teacher_forcing(trained: CaptionModel, tokenizer: CaptionTokenizer) -> None:
    """Of photos it does not know, so that the caption's probability is far from 1.

    With length_penalty 0 a score is the sum of its tokens' log-probabilities, which is minus the loss.
    """
    features = torch.randn(6, 5, VISION_DIM, generator=torch.Generator().manual_seed(9))
    found = trained.caption(features, GREEDY)
    checked = 0
    for image, (caption,) in zip(features, found, strict=True):
        again = make_batch(tokenizer, [[caption.text]], vision_dim=VISION_DIM)
        again["features"] = image[None]
        with torch.no_grad():
            loss = trained(again).loss_sum.item()
        if again["labels"].shape[1] <= GREEDY.max_tokens:  # it ended by itself
            checked += 1
            assert caption.score == pytest.approx(-loss, abs=1e-3)
            assert loss > 0.05
    assert checked >= 3


def test_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'gptt'; known: gpt2_cross"):
        select_family({"family": "gptt"})


def test_state_of_another_shape_is_refused(config: FamilyConfig, tokenizer: CaptionTokenizer) -> None:
    model = build(config, tokenizer)
    state = model.saved_state()
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    with pytest.raises(ValueError, match=r"disagree on 1 weights"):
        model.load_saved_state({key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(ValueError, match=name):
        model.load_saved_state({**state, name: torch.zeros(1, 1)})
