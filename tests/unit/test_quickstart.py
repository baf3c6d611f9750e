"""Parts of the quickstart; the whole of it runs in .ci/run."""

import json
from pathlib import Path

import pytest
import torch

from raycap import quickstart
from raycap.config import load_document
from raycap.datasets import shapes
from raycap.quickstart import models


def test_the_preset_moves_below_another_folder() -> None:
    document = quickstart.place_below(load_document("shapes"), Path("/somewhere/else"))
    assert document["data"]["path"] == "/somewhere/else/data"
    assert document["model"]["language_model"] == "/somewhere/else/models/language_model"
    assert '"quickstart/' not in json.dumps(document)


def test_exact_matches_counts_true_captions_only(tmp_path: Path) -> None:
    image_id = shapes.image_id(0, "test", 3)
    true = shapes.true_captions(shapes.scene_of(image_id))[0]
    lines = [
        {"image_id": image_id, "caption": caption} for caption in (true, true.capitalize() + ".", "a red cat")
    ]
    file = tmp_path / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert quickstart.exact_matches(file) == (2, 3)


def test_phrase_targets_mark_words_and_pairs_that_are_common_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MIN_PHRASE_COUNT", 2)
    targets = models.phrase_targets([["a red star"], ["two red stars.", "a red star"], ["two circles"]])
    # in alphabetical order: a, a red, red, red star, star, two
    expected = [[1.0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    assert torch.equal(targets, torch.tensor(expected))


def test_batches_are_full_and_cover_an_epoch_once() -> None:
    torch.manual_seed(0)
    batches = list(models.shuffled_batches(10, 2, batch_size=5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert sorted(torch.cat(batches[:2]).tolist()) == list(range(10))
    assert torch.cat(batches[:2]).tolist() != torch.cat(batches[2:]).tolist()


def test_the_serve_hint_names_the_run_that_was_made() -> None:
    """With `--folder X` the printed command served quickstart/run."""
    assert quickstart.serve_command("/my folder/run") == "raycap serve --checkpoint '/my folder/run'"
