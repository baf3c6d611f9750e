"""Choosing tokens, without a model: settings, top-k, draws, penalties, and search over a table of logits."""

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raycap.decoding import Ancestry, DecodingConfig, Hypothesis, decode
from raycap.decoding.choice import draw, penalise, top_log_probabilities

START, END, VOCAB = 0, 1, 40


class TableStepper:
    """Logits from a fixed random function of an image's number and of all tokens so far."""

    device = torch.device("cpu")

    def __init__(self, images: list[int], *, end_boost: float = 0.0) -> None:
        self.images, self.end_boost = images, end_boost
        self.past: list[list[tuple[int, ...]]] = [[()] for _ in images]
        self.rows_seen: list[int] = []

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        self.rows_seen.append(tokens.numel())
        beams = tokens.shape[1]
        self.past = [
            [past[parents[i, j] if parents is not None else j] + (int(tokens[i, j]),) for j in range(beams)]
            for i, past in enumerate(self.past)
        ]
        rows = [
            [logits_of(image, past, self.end_boost) for past in beams_of]
            for image, beams_of in zip(self.images, self.past, strict=True)
        ]
        return torch.stack([torch.stack(row) for row in rows])

    def keep(self, images: Tensor) -> None:
        self.images = [self.images[i] for i in images.tolist()]
        self.past = [self.past[i] for i in images.tolist()]


def logits_of(image: int, past: tuple[int, ...], end_boost: float) -> Tensor:
    seed = hash((image, past)) % 2**31
    logits = 2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    logits[END] += end_boost
    return logits


def run(
    images: list[int], config: DecodingConfig, end_boost: float = 0.0
) -> tuple[list[list[Hypothesis]], TableStepper]:
    stepper = TableStepper(images, end_boost=end_boost)
    return decode(stepper, config, batch=len(images), start_id=START, end_id=END), stepper


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 2, "n": 3}, "n=3 captions need beams=3"),
        ({"temperature": 0.5}, "temperature=0.5 has no effect without sample=true"),
        ({"min_tokens": 30}, "min_tokens=30 must be below max_tokens=30"),
        ({"sample": True, "temperature": 0.0}, "greater than or equal to 0.01"),
        ({"beam": 3}, "Extra inputs"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DecodingConfig.model_validate(settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-40, 1000.0])
@pytest.mark.parametrize("name", ["length_penalty", "temperature", "repetition_penalty"])
def test_numbers_that_break_the_search_are_refused(name: str, value: float) -> None:
    """A length penalty of 1000 overflowed with a traceback, and nan gave empty captions."""
    if name == "length_penalty" and value == 1e-40:
        value = -1000.0
    with pytest.raises(ValidationError, match=name):
        DecodingConfig.model_validate({name: value, "sample": True})


def test_more_beams_than_the_vocabulary_carries_are_refused() -> None:
    with pytest.raises(ValueError, match="beams=20 needs a vocabulary of more than 40 tokens, not 40"):
        run([1], DecodingConfig(beams=20))


@pytest.mark.parametrize("width", [100, 1000, 5003])
def test_top_log_probabilities_are_log_softmax_and_topk(width: int) -> None:
    logits = 5 * torch.randn(6, width, generator=torch.Generator().manual_seed(width))
    logits[3] -= 300.0
    expected, tokens = logits.log_softmax(-1).topk(6)
    found, found_tokens = top_log_probabilities(logits.clone(), 6)
    assert torch.equal(found_tokens, tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    banned = int(tokens[0, 0])
    found, found_tokens = top_log_probabilities(logits.clone(), 5, banned=banned)
    assert banned not in found_tokens.tolist()
    assert torch.equal(found_tokens[0], tokens[0, 1:])
    torch.testing.assert_close(found[0], expected[0, 1:], atol=1e-5, rtol=1e-6)


def test_penalties() -> None:
    seen = torch.tensor([[0, 5, 6, 5]])
    scores = penalise(torch.full((1, 8), -1.0), seen, DecodingConfig(repetition_penalty=2.0))
    assert scores.tolist() == [[-2.0, -1.0, -1.0, -1.0, -1.0, -2.0, -2.0, -1.0]]
    positive = penalise(torch.full((1, 8), 1.0), seen, DecodingConfig(repetition_penalty=2.0))
    assert positive.tolist() == [[0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 1.0]]
    bigrams = penalise(torch.zeros(1, 8), seen, DecodingConfig(no_repeat_ngram=2))
    assert bigrams[0].isinf().nonzero().flatten().tolist() == [6]  # 5 was followed by 6
    assert not penalise(torch.zeros(1, 8), seen, DecodingConfig(no_repeat_ngram=3)).isinf().any()


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    rows = scores.expand(len(uniform), -1)

    def shares(**settings: float) -> Tensor:
        config = DecodingConfig.model_validate({"sample": True, **settings})
        return draw(rows, config, uniform).bincount(minlength=4) / len(uniform)

    torch.testing.assert_close(shares(), scores.softmax(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(shares(temperature=2.0), (scores / 2).softmax(0), atol=1e-3, rtol=0)
    two = torch.cat([scores[:2].softmax(0), torch.zeros(2)])
    torch.testing.assert_close(shares(top_k=2), two, atol=1e-3, rtol=0)
    torch.testing.assert_close(shares(top_p=0.7), two, atol=1e-3, rtol=0)  # 0.64 + 0.24 reach 0.7
    assert shares(top_p=0.6).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_greedy_takes_the_likeliest_and_scores_it() -> None:
    config = DecodingConfig(beams=1, max_tokens=12, length_penalty=0.5)
    ((found,),), _ = run([3], config, end_boost=2.0)
    past, total = (START,), 0.0
    while len(past) <= 12 and past[-1] != END:
        log_probabilities = logits_of(3, past, 2.0).log_softmax(0)
        past += (int(log_probabilities.argmax()),)
        total += float(log_probabilities.max())
    assert past[-1] == END
    assert found.token_ids == list(past[1:-1])
    assert found.score == pytest.approx(total / (len(past) - 1) ** 0.5, rel=1e-5)


def test_wide_beam_search_finds_the_best_caption_of_all() -> None:
    """With as many beams as there are prefixes of two tokens, three-token search is exhaustive."""
    config = DecodingConfig(beams=19, n=3, max_tokens=2, min_tokens=0, length_penalty=0.0)
    ((*found,),), _ = run([7], config)
    first = logits_of(7, (START,), 0.0).log_softmax(0)
    every = [(float(first[END]), [])] + [
        (float(first[a] + logits_of(7, (START, a), 0.0).log_softmax(0)[b]), [a] if b == END else [a, b])
        for a, b in itertools.product(range(VOCAB), range(VOCAB))
        if a != END
    ]
    best = sorted(every, key=lambda scored: -scored[0])[:3]
    assert [hypothesis.token_ids for hypothesis in found] == [tokens for _, tokens in best]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for score, _ in best], rel=1e-5)


CONFIGS = [
    DecodingConfig(beams=1, max_tokens=15),
    DecodingConfig(beams=3, n=2, max_tokens=15, min_tokens=3),
    DecodingConfig(beams=4, max_tokens=15, repetition_penalty=1.4, no_repeat_ngram=2),
    DecodingConfig(sample=True, n=3, max_tokens=15, seed=5, temperature=1.5),
    DecodingConfig(sample=True, max_tokens=15, top_k=5, top_p=0.8, repetition_penalty=1.2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_batch_gives_what_single_images_give(config: DecodingConfig) -> None:
    images = list(range(9))
    together, _ = run(images, config, end_boost=4.0)
    assert together == [run([image], config, end_boost=4.0)[0][0] for image in images]
    lengths = {len(hypothesis.token_ids) for found in together for hypothesis in found}
    assert len(lengths) > 2
    assert min(lengths) >= config.min_tokens
    assert all(len(found) == config.n for found in together)
    assert all(found == sorted(found, key=lambda hypothesis: -hypothesis.score) for found in together)


@pytest.mark.parametrize("beams", [1, 3])
def test_done_images_leave_the_batch(beams: int) -> None:
    _, stepper = run(list(range(8)), DecodingConfig(beams=beams, max_tokens=15), end_boost=4.0)
    assert stepper.rows_seen[:2] == [8, 8 * beams]
    assert stepper.rows_seen[-1] <= 4 * beams


def test_sampling_depends_on_its_seed_only() -> None:
    def texts(seed: int, n: int) -> list[list[int]]:
        config = DecodingConfig(sample=True, n=n, seed=seed, max_tokens=8)
        ((*found,),), _ = run([1], config)
        return [hypothesis.token_ids for hypothesis in found]

    assert texts(1, 4) == texts(1, 4)
    assert texts(1, 4) != texts(2, 4)
    assert texts(1, 1)[0] in texts(1, 4)
    assert len({tuple(text) for text in texts(1, 4)}) > 1


@pytest.mark.parametrize("beams", [1, 3])
def test_lengths_keep_their_bounds(beams: int) -> None:
    config = DecodingConfig(beams=beams, min_tokens=4, max_tokens=6)
    found, _ = run(list(range(6)), config, end_boost=50.0)
    assert [len(hypotheses[0].token_ids) for hypotheses in found] == [4] * 6
    never, _ = run(list(range(6)), config, end_boost=-50.0)
    assert [len(hypotheses[0].token_ids) for hypotheses in never] == [6] * 6


def test_ancestry_shows_each_beam_its_own_past() -> None:
    """Three beams; at the third step beams 0 and 1 both continue beam 2, beam 2 continues beam 0."""
    ancestry = Ancestry(1, slots=7, dtype=torch.float32, device=torch.device("cpu"))
    assert ancestry.advance(1, None) is None
    ancestry.advance(3, torch.tensor([[0, 0, 0]]))
    mask = ancestry.advance(3, torch.tensor([[2, 2, 0]]))
    assert mask is not None
    visible = [row.nonzero().flatten().tolist() for row in mask[0] == 0]
    assert visible == [[0, 3, 4], [0, 3, 5], [0, 1, 6]]
