"""Choosing by several metrics: tables on which the strategies disagree, what is missing, and how they are written."""

import itertools
import math

import pytest

from raycap import choosing
from raycap.choosing import CAPTION_METRICS, NoCandidateError, choose, parse
from raycap.config import ConfigError
from raycap.metrics.measure import ALL_NAMES

NAN = math.nan
# Five checkpoints of one run: CIDEr-D rises to the end while BLEU-4, METEOR and the loss have turned before.
EPOCHS = {
    "one": {"cider_d": 0.40, "bleu_4": 0.200, "meteor": 0.180, "val_loss": 3.0},
    "two": {"cider_d": 0.44, "bleu_4": 0.205, "meteor": 0.195, "val_loss": 2.8},
    "three": {"cider_d": 0.47, "bleu_4": 0.202, "meteor": 0.205, "val_loss": 2.7},
    "four": {"cider_d": 0.49, "bleu_4": 0.197, "meteor": 0.200, "val_loss": 2.9},
    "five": {"cider_d": 0.50, "bleu_4": 0.170, "meteor": 0.170, "val_loss": 3.3},
}
CHOSEN = {
    "cider_d": "five",
    "bleu_4": "two",
    "val_loss": "three",
    "weighted:cider_d=1,bleu_4=0.5": "four",  # .49 + .0985 = .5885 against .5850 of five
    "weighted:cider_d=1,val_loss=0.2": "three",  # .47 - .54 = -.07 against -.09 of four
    "cider-centred": "four",  # five's BLEU-4 is 17 % below the best
    "cider-centred:0.02": "three",  # and four's 3.9 %
    "cider-centred:0.2": "five",
    "cider-centred:meteor=0.03": "four",  # BLEU-4 is free
    "cider-centred:val_loss=0.01": "three",
    "meteor-centred": "four",  # three's CIDEr-D is 6 % below the best
    "meteor-centred:0.06": "three",
    "meteor-centred:bleu_4=0": "two",
    "pareto": "two",  # three's BLEU-4 fell
    "pareto:cider_d,meteor": "three",
    "pareto:cider_d": "five",
    "lexicographic:cider_d=0.05,meteor": "four",  # four and five are near the best CIDEr-D
    "lexicographic:cider_d=0.07,meteor": "three",
    "lexicographic:cider_d=0.12,meteor=0.1,val_loss=0.1,bleu_4": "two",
    "lexicographic:cider_d,meteor": "five",
    "lexicographic:val_loss=0.04,bleu_4": "two",
}


@pytest.mark.parametrize(("by", "name"), CHOSEN.items())
def test_a_table_on_which_strategies_disagree(by: str, name: str) -> None:
    choice = choose(EPOCHS, by)
    assert choice.name == name, choice.reason
    assert choice.ranking[0] == name
    assert sorted(choice.ranking) == sorted(EPOCHS)


@pytest.mark.parametrize("by", CHOSEN)
def test_only_pareto_depends_on_the_order(by: str) -> None:
    chosen = {choose(dict(order), by).name for order in itertools.permutations(EPOCHS.items())}
    assert chosen == {CHOSEN[by]} or by.startswith("pareto")


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        ("cider_d", "cider_d 0.5000 is the highest of 5 candidates"),
        ("val_loss", "val_loss 2.7000 is the lowest of 5 candidates"),
        (
            "weighted:cider_d=1,val_loss=0.2",
            "1 cider_d - 0.2 val_loss = -0.0700 is the highest of 5 candidates",
        ),
        (
            "cider-centred",
            "cider_d 0.4900 is the best of the 3 of 5 candidates whose other metrics hold their tolerances",
        ),
        ("pareto", "none of bleu_4, cider_d, meteor fell on the way to it from one, and no other goes on so"),
        (
            "pareto:bleu_4,val_loss",
            "none of bleu_4, val_loss fell on the way to it from one, and no other goes on so",
        ),
        (
            "lexicographic:cider_d=0.05,meteor",
            "of 5 candidates 2 within 5.0% of the best cider_d (0.5000), 1 within 0.0% of the best meteor (0.2000)",
        ),
    ],
)
def test_the_reason_is_a_sentence(by: str, reason: str) -> None:
    assert choose(EPOCHS, by).reason == reason


def test_pareto_stays_where_everything_else_falls_somewhere() -> None:
    falling = {"one": {"cider_d": 0.4, "bleu_4": 0.2}, "two": {"cider_d": 0.9, "bleu_4": 0.1999}}
    assert choose(falling, "pareto").name == "one"
    assert "it is the first, and each of the 1 others falls" in choose(falling, "pareto").reason


def test_where_no_candidate_holds_its_tolerances_the_smallest_miss_is_chosen() -> None:
    apart = {
        "cider": {"cider_d": 0.9, "bleu_4": 0.1, "meteor": 0.3},
        "bleu": {"cider_d": 0.5, "bleu_4": 0.2, "meteor": 0.2},
        "even": {"cider_d": 0.7, "bleu_4": 0.18, "meteor": 0.27},
    }
    choice = choose(apart, "cider-centred")
    assert choice.ranking == ("even", "bleu", "cider")
    assert choice.reason == (
        "none of 3 candidates holds every tolerance, and this one misses by least "
        "(bleu_4 10.0% below the best, 5.0% allowed)"
    )


def test_a_fall_of_exactly_the_tolerance_holds() -> None:
    """In binary fractions 0.20 -> 0.19 is a fall of a little more than 0.05."""
    table = {"one": {"cider_d": 0.4, "bleu_4": 0.20}, "two": {"cider_d": 0.5, "bleu_4": 0.19}}
    assert choose(table, "cider-centred:0.05").name == "two"
    assert choose(table, "lexicographic:bleu_4=0.05,cider_d").name == "two"


@pytest.mark.parametrize(
    "by", ["cider_d", "weighted:cider_d=1", "cider-centred", "pareto", "lexicographic:cider_d"]
)
def test_of_equals_the_earlier(by: str) -> None:
    same = {name: {"cider_d": 0.5, "bleu_4": 0.2} for name in ("b", "a", "c")}
    assert choose(same, by).name == "b"


MISSING = {
    "diverged": {"cider_d": 0.9, "bleu_4": NAN, "val_loss": NAN},
    "infinite": {"cider_d": math.inf, "bleu_4": 0.5, "val_loss": 1.0},
    "unscored": {"val_loss": 0.5},
    "between": {},
    "whole": {"cider_d": 0.4, "bleu_4": 0.20, "val_loss": 2.0},
    "better": {"cider_d": 0.5, "bleu_4": 0.19, "val_loss": 2.1},
}


@pytest.mark.parametrize(
    ("by", "ranking"),
    [
        ("cider_d", ("diverged", "better", "whole")),  # NaN elsewhere does not count against what is named
        ("val_loss", ("unscored", "infinite", "whole", "better")),
        ("weighted:cider_d=1,bleu_4=1", ("better", "whole")),
        ("cider-centred", ("better", "whole")),
        ("pareto", ("whole", "better")),
        ("lexicographic:cider_d=0.3,bleu_4", ("whole", "better")),
    ],
)
def test_missing_and_nan_metrics(by: str, ranking: tuple[str, ...]) -> None:
    assert choose(MISSING, by).ranking == ranking


def test_a_metric_that_some_were_not_measured_on_is_compared_for_none() -> None:
    table = {
        "old": {"cider_d": 0.4, "bleu_4": 0.2},
        "new": {"cider_d": 0.5, "bleu_4": 0.2, "meteor": 0.1},
        "newer": {"cider_d": 0.45, "bleu_4": 0.2, "meteor": 0.3},
    }
    assert choose(table, "cider-centred").name == "new"
    assert choose(table, "pareto").name == "new"
    assert choose(table, "cider-centred:meteor=0.1").name == "newer"  # named: old cannot take part


@pytest.mark.parametrize("by", CHOSEN)
def test_nothing_to_choose_from(by: str) -> None:
    with pytest.raises(NoCandidateError):
        choose({}, by)
    with pytest.raises(NoCandidateError):
        choose({"one": {}, "two": {"cider_d": NAN, "bleu_4": NAN, "meteor": NAN, "val_loss": NAN}}, by)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(
        NoCandidateError, match="none of 5 candidates has a finite value of spice; measured are bleu_4"
    ):
        choose(EPOCHS, "spice")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"unknown strategy ''; known: a metric \(cider_d\), weighted:"),
        ("cider", "unknown strategy 'cider'"),
        ("cider_d:1", "unknown strategy 'cider_d:1'"),
        ("weighted", "unknown strategy 'weighted'"),
        ("weighted:", "has nothing after the colon"),
        ("weighted:cider_d", "cider_d needs a number and has ''; e.g. cider_d=0.5"),
        ("weighted:cider_d=much", "cider_d needs a number and has 'much'"),
        ("weighted:cider_d=nan", "cider_d needs a number"),
        ("weighted:cider_d=-1", "weights are above 0"),
        ("weighted:cidre=1", "unknown metric 'cidre'; known: bleu_1, "),
        ("weighted:cider_d=1,cider_d=2", "names cider_d twice"),
        ("cider-centred:2%", "the tolerance needs a number and has '2%'"),
        ("cider-centred:1.5", "the tolerance is a share of the best value, from 0 to below 1, and is 1.5"),
        ("cider-centred:cider_d=0.1", "cider_d is the centre"),
        ("pareto:cider_d=1", "metrics stand alone here"),
        ("lexicographic", "unknown strategy"),
        ("lexicographic:cider_d=-0.1,meteor", "is a share of the best value"),
    ],
)
def test_what_is_wrong_with_a_strategy_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_spaces_do_not_matter() -> None:
    assert choose(EPOCHS, " weighted: cider_d = 1, bleu_4 = 0.5 ").name == "four"


def test_the_known_metrics_are_those_that_raycap_measures() -> None:
    assert set(CAPTION_METRICS) == set(ALL_NAMES)


def test_every_example_of_the_grammar_parses() -> None:
    examples = [
        part.split(" (")[0] for part in choosing.GRAMMAR.removeprefix("a metric (cider_d), ").split(", ")
    ]
    assert len(examples) == 8
    assert all(parse(example) for example in examples)


def test_the_only_candidate_is_said_to_be() -> None:
    """The reason was "it is the first, and each of the 0 others falls ..."."""
    assert choose({"a": {"cider_d": 0.5}}, "pareto").reason == "it is the only candidate"
