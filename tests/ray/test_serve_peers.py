"""The peers of the serving benchmark, over tiny models: each answers with captions of the full length."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import make_encoder
from ports import free_port
from prepared import make_picture

from raycap.benchmarks.decoders import TOKENS
from raycap.benchmarks.load import run_load
from raycap.benchmarks.peers_serve import save_peer_models, start_fastapi_peer, start_serve_batch_peer
from raycap.benchmarks.peers_serve.model import PeerCaptioner
from raycap.benchmarks.synthetic import VOCAB, tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `save_peer_models` leaves, small."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("peers")
    make_encoder(folder / "clip", vision_dim=24)
    sizes = {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    config = GPT2Config(**sizes, add_cross_attention=True, initializer_range=0.4)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    tokenizer().save(folder / "gpt2")
    (folder / "complete").touch()
    return save_peer_models(folder)


@pytest.mark.slow
@pytest.mark.ray
def test_a_peer_captions_what_is_posted(models: Path) -> None:
    photos = [make_picture(seed) for seed in range(3)]
    with start_serve_batch_peer(models, port=free_port(), threads=1) as url:
        settings: dict[str, Any] = {"clients": 12, "requests": 24, "limit_s": 120}
        report = asyncio.run(run_load(url, photos, **settings))
    assert report.statuses == {200: 24}
    captioner = PeerCaptioner(models, threads=1)
    expected = [captioner.caption([captioner.read(photo)])[0] for photo in photos]
    assert [reply.answer["caption"] for reply in report.replies] == expected * 8
    assert len(set(expected)) == 3
    assert all(len(captioner.tokenizer.encode(caption)) >= TOKENS - 1 for caption in expected)


@pytest.mark.slow
def test_a_peer_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "complete").touch()
    with (
        pytest.raises(RuntimeError, match=r"its log ends:[^$]*OSError"),
        start_fastapi_peer(tmp_path, port=free_port(), threads=1),
    ):
        pass


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_peer_models"), start_fastapi_peer(tmp_path, port=1, threads=1):
        pass
