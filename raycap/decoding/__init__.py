"""Greedy, beam search and sampling over one next-token callable, batched over images.

Knows nothing of any model: a family hands over a Stepper, which keeps whatever state its steps need, and
`decode` returns token ids. Beam search selects exactly the tokens that transformers' `generate()` selects.
"""

from raycap.decoding.config import DecodingConfig
from raycap.decoding.search import Search, check_beams, decode, start_search
from raycap.decoding.stepper import Ancestry, Hypothesis, Stepper

__all__ = [
    "Ancestry",
    "DecodingConfig",
    "Hypothesis",
    "Search",
    "Stepper",
    "check_beams",
    "decode",
    "start_search",
]
