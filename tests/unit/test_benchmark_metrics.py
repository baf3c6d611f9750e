"""The metrics benchmark: its captions are like Flickr30k's, and its rows have what jobs/benchmark.py prints."""

import pytest

from raycap.benchmarks import metrics as benchmark
from raycap.metrics import ptb, score


def test_captions_are_made_by_seed_and_look_like_flickr30ks() -> None:
    predictions, references = benchmark.make_captions(300)
    assert (predictions, references) == benchmark.make_captions(300)
    texts = [text for image in references for text in image]
    assert len(texts) == 1500
    words = [word for text in texts for word in text.split()]
    assert 10 < len(words) / len(texts) < 13  # Flickr30k: 10.7 as written
    open_lines = [
        text for text in texts if not all(ptb._CLOSED.fullmatch(chunk) for chunk in text.split(" "))
    ]
    assert 0.003 < len(open_lines) / len(texts) < 0.03  # Flickr30k: 0.012
    scores = score(predictions, references)
    assert 0.3 < scores["bleu_1"] < 0.7
    assert scores["cider_d"] > 0.05


def test_rows_state_sizes_and_aims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "why_not", lambda: "its tokenizer needs Java")
    rows = benchmark.metrics_rows(quick=True)
    named = {row["row"]: row for row in rows}
    assert named["raycap"]["value"] > 0
    assert named["pycocoevalcap"]["sizes"] == "skipped: its tokenizer needs Java"
    assert named["CIDEr-D of 320 candidates"]["aim"] == "<= 30"
    assert {row["threads"] for row in rows} == {1}
    assert all("400 images x 5 references" in row["sizes"] or "skipped" in row["sizes"] for row in rows)
