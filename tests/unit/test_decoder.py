"""The decoder: transformers' tokens in float32, a batch's captions equal single images' in every precision."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import make_language_model
from torch import Tensor

from raycap.config import ConfigError
from raycap.decoding import DecodingConfig, Hypothesis
from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.models.gpt2_cross.config import LoraConfig
from raycap.models.gpt2_cross.decoder import Decoder
from raycap.models.kernels import PRECISIONS, Head, Int8Linear, Precision, gelu_, has_onednn, linear

CPU = torch.device("cpu")
IDS = [0, 1]  # start and end token; as in GPT-2 both may be the same
needs_int8 = pytest.mark.skipif(not has_onednn(), reason="int8 needs oneDNN on an x86 CPU")
precisions = pytest.mark.parametrize(
    "precision", [pytest.param(p, marks=needs_int8) if p == "int8" else p for p in PRECISIONS]
)


pytestmark = pytest.mark.usefixtures("one_thread")


def random_gpt2(seed: int, *, vocab: int = 61, dim: int = 32, spread: float = 0.4, end_id: int = 1) -> Any:
    """transformers' GPT-2 with cross-attention whose captions end early, at different places."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=40,
        n_embd=dim,
        n_layer=2,
        n_head=2,
        add_cross_attention=True,
        initializer_range=spread,
        bos_token_id=IDS[0],
        eos_token_id=end_id,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.ln_f.bias += 0.3
        model.transformer.wte.weight[end_id] += spread * float(torch.rand(()))
    return model


def features_of(count: int, *, dim: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(count, 7, dim, generator=torch.Generator().manual_seed(seed))


def generate(model: Any, features: Tensor, decoding: DecodingConfig, end_id: int) -> list[Hypothesis]:
    """transformers' own captions of all images, one after another; greedy ones have no score there."""
    given = {
        "num_beams": decoding.beams,
        "num_return_sequences": decoding.n,
        "max_new_tokens": decoding.max_tokens,
        "min_new_tokens": decoding.min_tokens,
        "length_penalty": decoding.length_penalty,
        "repetition_penalty": decoding.repetition_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram,
    }
    if decoding.beams == 1:
        del given["length_penalty"]
    prompt = torch.full((len(features), 1), IDS[0])
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        encoder_hidden_states=features,
        do_sample=False,
        eos_token_id=end_id,
        pad_token_id=end_id,
        return_dict_in_generate=True,
        output_scores=True,
        **given,
    )
    scores = [0.0] * len(features) if decoding.beams == 1 else made.sequences_scores.tolist()
    sequences = [row[: row.index(end_id)] if end_id in row else row for row in made.sequences[:, 1:].tolist()]
    return [Hypothesis(*pair) for pair in zip(sequences, scores, strict=True)]


SETTINGS: list[dict[str, Any]] = [
    {"beams": 1},
    {"beams": 3, "n": 3},
    {"beams": 5, "n": 2},
    {"beams": 3, "length_penalty": 0.5},
    {"beams": 3, "length_penalty": 2.0},
    {"beams": 5, "length_penalty": 0.0, "min_tokens": 0},
    {"beams": 3, "min_tokens": 6},
    {"beams": 1, "min_tokens": 6, "repetition_penalty": 1.3},
    {"beams": 3, "repetition_penalty": 1.3},
    {"beams": 1, "no_repeat_ngram": 2},
    {"beams": 5, "n": 5, "no_repeat_ngram": 2, "length_penalty": 2.0},
    {"beams": 3, "max_tokens": 4, "n": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_are_those_of_generate(settings: dict[str, Any]) -> None:
    """Eight random models each, with the start token for end token in every other one."""
    decoding = DecodingConfig.model_validate({"max_tokens": 16, **settings})
    early = 0
    for seed in range(8):
        end_id = IDS[seed % 2]
        model = random_gpt2(seed, spread=0.3 + 0.1 * (seed // 2), end_id=end_id)
        decoder = Decoder.from_transformers(model, start_id=IDS[0], end_id=end_id)
        features = features_of(3, seed=seed)
        expected = generate(model, features, decoding, end_id)
        found = [hypothesis for of_image in decoder.caption(features, decoding) for hypothesis in of_image]
        assert [h.token_ids for h in found] == [h.token_ids for h in expected]
        if decoding.beams > 1:
            assert [h.score for h in found] == pytest.approx([h.score for h in expected], rel=1e-4, abs=1e-4)
        early += sum(len(h.token_ids) < decoding.max_tokens for h in found)
    assert early >= 4 or decoding.length_penalty == 2.0  # which prefers the longest


@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 1},
        {"beams": 3, "n": 2},
        {"sample": True, "n": 2, "top_p": 0.9},
        {"beams": 4, "no_repeat_ngram": 2},
    ],
    ids=str,
)
def test_a_batch_gives_what_single_images_give(settings: dict[str, Any]) -> None:
    """768 wide as GPT-2, so that kernels would block it differently for 1 and for 36 rows."""
    model = random_gpt2(3, vocab=500, dim=768, spread=0.05)
    decoder = Decoder.from_transformers(model, start_id=0, end_id=1)
    features = features_of(9, dim=768)
    decoding = DecodingConfig.model_validate({"max_tokens": 12, **settings})
    together = decoder.caption(features, decoding)
    alone = [decoder.caption(features[i : i + 1], decoding)[0] for i in range(len(features))]
    assert [[h.token_ids for h in found] for found in together] == [
        [h.token_ids for h in found] for found in alone
    ]
    scores = [h.score for found in together for h in found]
    assert scores == pytest.approx([h.score for found in alone for h in found], rel=1e-4)
    assert len({tuple(h.token_ids) for found in together for h in found}) > 5


@precisions
def test_precisions_agree_with_float32(precision: Precision) -> None:
    """Logits of one step, against their own spread. Embeddings are far from zero mean, as GPT-2's are."""
    model = random_gpt2(3, vocab=500, dim=64, spread=0.2)
    with torch.no_grad():
        model.transformer.wte.weight += 3.0
    features, tokens = features_of(4, dim=64), torch.zeros(4, 1, dtype=torch.int64)
    with torch.no_grad():
        expected = model(tokens, encoder_hidden_states=features).logits
    decoder = Decoder.from_transformers(model, start_id=0, end_id=1, precision=precision)
    seen = {}
    decoder.head = Spy(decoder.head, seen)
    decoder.caption(features, DecodingConfig(beams=1, max_tokens=1))
    error = (seen["logits"] - expected[:, 0]).std() / expected[:, 0].std(dim=-1).mean()
    assert error < {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.06}[precision]


@precisions
def test_a_batch_differs_from_single_images_by_rounding_alone(precision: Precision) -> None:
    """In bfloat16 kernels add up in an order that depends on the rows (not on Intel, but on AMD's Zen)."""
    model = random_gpt2(3, vocab=500, dim=768, spread=0.05)
    decoder = Decoder.from_transformers(model, start_id=0, end_id=1, precision=precision)
    seen: dict[str, Tensor] = {}
    decoder.head = Spy(decoder.head, seen)
    features, logits = features_of(9, dim=768), []
    for images in (features, *features.split(1)):
        decoder.caption(images, DecodingConfig(beams=1, max_tokens=1))
        logits.append(seen["logits"])
    together, alone = logits[0], torch.cat(logits[1:])
    error = (together - alone).std() / alone.std(dim=-1).mean()
    assert error < {"float32": 1e-5, "bfloat16": 0.01, "int8": 0.01}[precision]


class Spy:
    """Keeps the logits, which search overwrites."""

    def __init__(self, head: Head, seen: dict[str, Tensor]) -> None:
        self.head, self.seen = head, seen

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.head(x)
        self.seen["logits"] = logits.clone()
        return logits


def test_a_vocabulary_cut_limits_captions_and_nothing_else() -> None:
    model = random_gpt2(5, vocab=300)
    whole = Decoder.from_transformers(model, start_id=0, end_id=1)
    features, decoding = features_of(6), DecodingConfig(beams=3, n=3, max_tokens=8)
    expected = [[h.token_ids for h in found] for found in whole.caption(features, decoding)]
    every = sorted({token for found in expected for ids in found for token in ids})
    cut = Decoder.from_transformers(model, start_id=0, end_id=1, vocabulary=range(2, 290, 3))
    limited = {token for found in cut.caption(features, decoding) for h in found for token in h.token_ids}
    assert limited <= set(range(2, 290, 3)) | {0}
    assert limited != set(every)
    same = Decoder.from_transformers(model, start_id=0, end_id=1, vocabulary=range(300))
    assert [[h.token_ids for h in found] for found in same.caption(features, decoding)] == expected


@pytest.mark.parametrize("start", ["gate", "projection"])
def test_adapters_and_gates_are_folded_in(tmp_path: Path, start: str) -> None:
    """Greedy captions of raycap's model are what its training forward predicts, token by token."""
    folder = make_language_model(tmp_path / "lm")
    config = Gpt2CrossConfig(
        language_model=str(folder), heads=3, head_dim=8, start=start, lora=LoraConfig(rank=4)
    )
    model = config.build(tokenizer=config.load_tokenizer(), vision_dim=24)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.eval()
    features = torch.randn(2, 5, 24)
    found = Decoder.from_model(model).caption(features, DecodingConfig(beams=1, max_tokens=10))
    for image, (hypothesis,) in enumerate(found):
        ids = [model.tokenizer.start_id, *hypothesis.token_ids]
        batch = {
            "features": features[image : image + 1],
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([ids]),
            "position_ids": torch.arange(len(ids))[None],
            "caption_index": torch.zeros(1, len(ids), dtype=torch.int64),
            "image_key": torch.zeros(1, dtype=torch.int64),
        }
        with torch.no_grad():
            likeliest = model.logits(batch)[:-1].argmax(-1).tolist()
        assert likeliest == hypothesis.token_ids
        assert len(hypothesis.token_ids) >= 3


def test_bad_input_is_refused() -> None:
    model = random_gpt2(0)
    decoder = Decoder.from_transformers(model, start_id=0, end_id=1)
    with pytest.raises(ValueError, match=r"features must be \(batch, patches, 32\), and are \(2, 5, 16\)"):
        decoder.caption(torch.zeros(2, 5, 16), DecodingConfig())
    with pytest.raises(ValueError, match="max_tokens=41 is above the model's 40"):
        decoder.caption(torch.zeros(2, 5, 32), DecodingConfig(max_tokens=41))
    assert decoder.caption(torch.zeros(0, 5, 32), DecodingConfig()) == []
    with pytest.raises(ConfigError, match="unknown precision 'fp4'; known: float32, bfloat16, int8"):
        Decoder.from_transformers(model, start_id=0, end_id=1, precision="fp4")
    with pytest.raises(ConfigError, match="ids from 0 to 99; the model's are 0 to 60"):
        Decoder.from_transformers(model, start_id=0, end_id=1, vocabulary=[5, 99])
    with pytest.raises(ConfigError, match="int8 decoding needs oneDNN on an x86 CPU, and this is meta"):
        linear(torch.ones(4, 4), torch.ones(4), precision="int8", device=torch.device("meta"))


@needs_int8
def test_int8_rows_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64), torch.randn(96)
    layer = Int8Linear(weight, bias)
    rows = torch.randn(33, 64) * torch.logspace(-3, 3, 33)[:, None]
    rows[7] = 0.0
    together = layer(rows)
    assert all(torch.equal(layer(rows[i : i + 1])[0], together[i]) for i in range(33))
    assert torch.equal(together[7], bias)
    exact = rows @ weight.T
    error = (together - bias - exact).norm(dim=1)[rows.any(dim=1)] / exact.norm(dim=1)[rows.any(dim=1)]
    assert error.max() < 0.015


@needs_int8
@pytest.mark.slow
def test_int8_does_not_overflow_on_older_cpus() -> None:
    """AVX2 without VNNI adds pairs of products in 16 bits: inputs take 63 steps there instead of 127."""
    code = (
        "import torch; from raycap.models.kernels import Int8Linear, int8_levels\n"
        "layer = Int8Linear(torch.full((16, 64), 0.5), torch.zeros(16))\n"
        "print(int8_levels('cpu'), float(layer(torch.ones(1, 64))[0, 0]))"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    levels, value = done.stdout.split()
    assert float(value) == pytest.approx(32.0, rel=1e-5)
    assert levels in {"63", "127"}


def test_gelu_is_that_of_gpt2() -> None:
    x = torch.linspace(-12, 12, 2001)
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh")
    assert (gelu_(x) - expected).abs().max() < 3e-6


@pytest.mark.parametrize("beams", [1, 3])
def test_an_image_leaves_as_soon_as_its_caption_ends(beams: int) -> None:
    """Done images used to be handed over when half of the batch was done."""
    decoder = Decoder.from_transformers(random_gpt2(4), start_id=0, end_id=1)
    features, decoding = features_of(8), DecodingConfig(beams=beams, max_tokens=20)
    alone = [decoder.caption(features[image : image + 1], decoding)[0] for image in range(8)]
    search = decoder.start(features, decoding)
    left: dict[int, int] = {}
    while not search.done:
        (finished,) = decoder.step([search])
        left |= dict.fromkeys(finished, search.position)
        for image in finished:
            assert search.found[image][0].token_ids == alone[image][0].token_ids
    assert len(set(left.values())) > 2
    if beams == 1:
        assert [left[image] for image in range(8)] == [
            min(len(alone[image][0].token_ids) + 1, 20) for image in range(8)
        ]
