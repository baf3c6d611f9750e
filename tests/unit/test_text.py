"""Captions to ids and back, packing and unpacking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import CAPTIONS, captions_of, make_batch

from raycap.config import ConfigError
from raycap.schema import IGNORE_INDEX
from raycap.text import CaptionTokenizer, pack, unpack


@pytest.fixture(scope="module")
def tokenizer(tiny_language_model: str) -> CaptionTokenizer:
    return CaptionTokenizer.load(tiny_language_model)


def test_encode_then_decode_gives_the_caption_back(tokenizer: CaptionTokenizer) -> None:
    captions = [*CAPTIONS[:5], "Café ½ “quotes” 犬!"]
    ids = tokenizer.encode(captions, max_tokens=100)
    assert [tokenizer.decode(row) for row in ids] == captions
    assert all(tokenizer.end_id not in row for row in ids)


def test_encode_collapses_white_space_and_cuts(tokenizer: CaptionTokenizer) -> None:
    plain, spaced = tokenizer.encode(["A red dog.", "  A\nred   dog. "], max_tokens=50)
    assert plain == spaced
    assert tokenizer.encode(["A red dog."], max_tokens=2) == [plain[:2]]
    assert tokenizer.encode([], max_tokens=2) == []


def test_first_word_has_no_leading_space(tokenizer: CaptionTokenizer) -> None:
    (ids,) = tokenizer.encode(["A"], max_tokens=5)
    assert tokenizer.tokenizer.convert_ids_to_tokens(ids) == ["A"]


def test_a_caption_cannot_spell_the_end_token(tokenizer: CaptionTokenizer) -> None:
    """A caption holding the text <|endoftext|> would end in the middle and teach the model to stop there."""
    (ids,) = tokenizer.encode(["A <|endoftext|> dog"], max_tokens=50)
    assert tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == "A <|endoftext|> dog"


def test_decode_stops_at_the_end_and_strips(tokenizer: CaptionTokenizer) -> None:
    (ids,) = tokenizer.encode([" A dog"], max_tokens=50)
    (space,) = tokenizer.encode(["x y"], max_tokens=50)
    assert tokenizer.decode([*ids, tokenizer.end_id, *space]) == "A dog"
    assert tokenizer.decode([]) == ""
    spaced = tokenizer.tokenizer("  A dog ")["input_ids"]
    assert tokenizer.decode(spaced) == "A dog"


def test_save_then_load_is_the_same_tokenizer(tokenizer: CaptionTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = CaptionTokenizer.load(str(tmp_path))
    assert again.encode(CAPTIONS, max_tokens=30) == tokenizer.encode(CAPTIONS, max_tokens=30)
    assert (again.start_id, again.end_id, again.vocab_size) == (
        tokenizer.start_id,
        tokenizer.end_id,
        tokenizer.vocab_size,
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/no-such-tokenizer"])
def test_missing_tokenizer_says_what_to_do(name: str) -> None:
    with pytest.raises(ConfigError, match=r"folder"):
        CaptionTokenizer.load(name)


def test_pack_lays_captions_one_after_another() -> None:
    packed = pack([[[5, 6, 2], [7, 2]], [[8, 2]]], start_id=1, end_id=2)
    ignore = IGNORE_INDEX
    expected = {
        "input_ids": [[1, 5, 6, 1, 7], [1, 8, 2, 2, 2]],
        "labels": [[5, 6, 2, 7, 2], [8, 2, ignore, ignore, ignore]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]],
        "caption_index": [[0, 0, 0, 1, 1], [0, 0, -1, -1, -1]],
    }
    assert {name: array.tolist() for name, array in packed.items()} == expected
    assert {array.dtype for array in packed.values()} == {np.dtype(np.int64)}


def test_a_cut_caption_does_not_learn_to_end(tokenizer: CaptionTokenizer) -> None:
    """The end token used to be put behind the cut, so that long captions taught the model to break off."""
    (ids,) = tokenizer.encode(["A red dog."], max_tokens=50)
    whole, cut = (tokenizer.targets(["A red dog."], max_tokens=most)[0] for most in (len(ids), len(ids) - 1))
    assert whole == [*ids, tokenizer.end_id]
    assert cut == ids
    packed = pack([[cut]], start_id=1, end_id=2)
    assert packed["input_ids"].tolist() == [[1, *ids[:-1]]]
    assert packed["labels"].tolist() == [ids]


def test_pack_of_nothing() -> None:
    assert {array.shape for array in pack([], start_id=1, end_id=2).values()} == {(0, 0)}


def test_unpack_gives_one_row_a_caption(tokenizer: CaptionTokenizer) -> None:
    captions = captions_of(3, per_image=2)
    captions[1] = captions[1][:1]
    rows = unpack(make_batch(tokenizer, captions), fill_id=tokenizer.end_id)
    assert rows.image_index.tolist() == [0, 0, 1, 2, 2]
    flat = tokenizer.encode([text for image in captions for text in image], max_tokens=30)
    width = max(len(ids) for ids in flat) + 1
    for ids, inputs, labels in zip(flat, rows.input_ids.tolist(), rows.labels.tolist(), strict=True):
        padding = width - len(ids) - 1
        assert inputs == [tokenizer.start_id, *ids] + [tokenizer.end_id] * padding
        assert labels == [*ids, tokenizer.end_id] + [IGNORE_INDEX] * padding
