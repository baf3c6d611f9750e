"""A Study and its verdicts as one HTML page. The layer of the attention maps is chosen without script, by CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycap.debug.grid import PatchGrid
from raycap.debug.study import Study
from raycap.models.base import Explanation
from raycap.pages import Verdict, checklist, page, png, table, thumbnail

VEIL = 0.82  # darkness over a patch that is not looked at
PHOTO_SIDE = 480


def debug_page(study: Study, verdicts: Sequence[Verdict], *, photo: str, path: str, alternatives: int) -> str:
    """The whole report.

    Args:
        photo: its name, for the title.
        path: of the checkpoint.
        alternatives: tokens shown at each place.
    """
    parts = [caption_section(study), "<h2>Checks</h2>" + checklist(verdicts), input_section(study)]
    if study.best:
        parts += [token_section(study, study.best, alternatives=alternatives), layer_section(study.best)]
    else:
        parts.append(
            f"<p class=soft>The family {escape(study.manifest.family)} does not tell token by token what it does: "
            "no probabilities and no attention maps.</p>"
        )
    own = study.manifest
    name = photo.rpartition("/")[2]
    subtitle = f"{own.family} at step {own.step:,} ({path}), {decoding_name(study)}, {study.precision}"
    return page(f"What the model sees in {name}", subtitle=subtitle, body="\n".join(parts), style=STYLE)


def decoding_name(study: Study) -> str:
    """How the captions were chosen, in a word or two."""
    if study.decoding.sample:
        return f"sampled at temperature {study.decoding.temperature:g}"
    return "greedy" if study.decoding.beams == 1 else f"beam {study.decoding.beams}"


def caption_section(study: Study) -> str:
    """The caption, then all of the n-best."""
    best = escape(study.captions[0].text) or "<i>(an empty caption)</i>"
    rows = [
        (number, caption.text or "(empty)", f"{caption.score:.3f}", caption.tokens)
        for number, caption in enumerate(study.captions, start=1)
    ]
    power = f"{study.decoding.length_penalty:g}"
    return (
        f"<p class=caption>{best}</p>"
        + table(("", "caption", "score", "tokens"), rows, text=(1,))
        + f"<p><small>Score: the sum of the tokens' log-probabilities over length to the power {power}.</small></p>"
    )


def input_section(study: Study) -> str:
    """The photo with what is seen of it outlined, and the encoder's very input."""
    window = study.window
    box = f"left:{window.left:.2%};top:{window.top:.2%};width:{window.width:.2%};height:{window.height:.2%}"
    height, width = study.photo.shape[:2]
    rows, columns = study.encoder_input.shape[:2]
    patches = f"{len(study.features)} patches of {study.features.shape[1]}"
    if study.grid:
        patches += f", a grid of {study.grid.rows} x {study.grid.columns}"
        patches += f" behind {study.grid.leading} of no place (CLS, registers)" if study.grid.leading else ""
    return (
        "<h2>What the encoder gets</h2><div class=inputs>"
        f'<figure><div class=frame><img src="{thumbnail(study.photo, side=PHOTO_SIDE)}" alt="the photo">'
        f'<div class=window style="{box}"></div></div><figcaption>the photo, {width} x {height}; the encoder sees '
        "what is inside the frame</figcaption></figure>"
        f'<figure><img class=exact src="{png(study.encoder_input)}" alt="the encoder\'s input"><figcaption>the '
        f"encoder's input, every pixel as it is: {columns} x {rows}; {patches}</figcaption></figure></div>"
    )


def token_section(study: Study, best: Explanation, *, alternatives: int) -> str:
    """A card for each token: where it looked, how likely it was, what else could have stood there."""
    grid = study.grid if best.attention.numel() else None
    layers = len(best.attention) if grid else 0
    buttons = "".join(
        f"<input type=radio name=layer id=layer-{layer} {'checked' if layer == 0 else ''}>"
        f"<label for=layer-{layer}>{'all layers' if layer == 0 else f'layer {layer}'}</label>"
        for layer in range(layers + 1 if layers else 0)
    )
    shown = "".join(
        f"#layer-{layer}:checked ~ .tokens .map-{layer} {{ display: block; }}" for layer in range(layers + 1)
    )
    rows, columns = study.encoder_input.shape[:2]
    photo = (
        f".seen {{ background-image: url({png(study.encoder_input)}); aspect-ratio: {columns} / {rows}; }}"
        if grid
        else ""
    )
    cards = "".join(
        token_card(study, best, place, alternatives=alternatives, grid=grid)
        for place in range(len(best.token_ids))
    )
    legend = "Bright is where cross-attention looked while the token was made: " if grid else ""
    legend += (
        "mean of the heads, drawn by its square root, each map's strongest patch clear. " if grid else ""
    )
    return (
        f"<style>{photo}{shown}</style><h2>Token by token</h2><p class=soft>{legend}Probabilities are the plain "
        "model's, given the photo and the tokens before; entropy in bits: 0 is certain.</p>"
        f"<div class=layers>{buttons}<div class=tokens>{cards}</div></div>"
    )


def token_card(
    study: Study, best: Explanation, place: int, *, alternatives: int, grid: PatchGrid | None
) -> str:
    """One token of the best caption."""
    log_p = best.log_probabilities[place]  # (vocab,)
    chosen = best.token_ids[place]
    top = log_p.topk(min(alternatives, len(log_p))).indices.tolist()
    bars = "".join(
        bar(study.token_text(token), math.exp(float(log_p[token])), chosen=token == chosen)
        for token in (top if chosen in top else [*top, chosen])
    )
    rank = int((log_p > log_p[chosen]).sum()) + 1
    maps = attention_maps(best.attention[:, :, place], grid) if grid else ""
    return (
        f"<article>{maps}<div class=text><p class=token>{visible(study.token_text(chosen))}</p>"
        f"<p class=soft>{math.exp(float(log_p[chosen])):.1%}, choice {rank}, entropy {entropy_bits(log_p):.1f} bits"
        f"</p><ul class=bars>{bars}</ul></div></article>"
    )


def bar(text: str, probability: float, *, chosen: bool) -> str:
    """An alternative with its probability."""
    return (
        f"<li{' class=chosen' if chosen else ''}><i style='width:{probability:.1%}'></i>"
        f"<span>{visible(text)}</span><b>{probability:.1%}</b></li>"
    )


def visible(token: str) -> str:
    """A token escaped, its blanks shown."""
    return escape(token.replace("\n", "↵").replace(" ", "␣")) or "∅"


def entropy_bits(log_p: Tensor) -> float:
    """Of a distribution's log-probabilities (vocab,)."""
    return float(-(log_p.exp() * log_p.clamp_min(-1e4)).sum()) / math.log(2)


def attention_maps(weights: Tensor, grid: PatchGrid) -> str:
    """The encoder's input under the mean map of all layers, then each layer's own: (layers, heads, patches)."""
    each = weights.mean(dim=1)  # (layers, patches)
    maps = torch.cat([each.mean(dim=0, keepdim=True), each])
    elsewhere = (
        f"<small>{float(maps[0, : grid.leading].sum()):.0%} on no place</small>" if grid.leading else ""
    )
    images = "".join(
        f'<img class="map map-{layer}" src="{png(veil(one, grid))}" alt="attention">'
        for layer, one in enumerate(maps)
    )
    return f"<div class=seen>{images}{elsewhere}</div>"


def veil(weights: Tensor, grid: PatchGrid) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A map (patches,) as darkness over what is not looked at: uint8 (rows, columns, 2), grey and alpha.

    Brightness goes by the square root: one strong patch would leave the others all black.
    """
    cells = weights[grid.leading :].reshape(grid.rows, grid.columns).numpy()
    alpha = 255 * VEIL * (1 - np.sqrt(cells / max(float(cells.max()), 1e-12)))
    return np.stack([np.zeros_like(alpha), alpha], axis=-1).round().astype(np.uint8)


def layer_section(best: Explanation) -> str:
    """Layer by layer: the image's part, how sharply it is looked at, the gate."""
    if not best.image_share.numel():
        return ""
    weights = best.attention.clamp_min(1e-12)  # (layers, heads, tokens, patches)
    spread = torch.exp(-(weights * weights.log()).sum(-1)).mean(dim=(1, 2)).tolist()
    shares = best.image_share.mean(dim=1).tolist()
    gates = best.gates.tolist()
    head = ["layer", "the image adds", "looks at so many patches", *(["gate"] if gates else [])]
    rows = [
        [
            layer + 1,
            f"{shares[layer]:.1%}",
            f"{spread[layer]:.1f}",
            *([f"{gates[layer]:+.3f}"] if gates else []),
        ]
        for layer in range(len(shares))
    ]
    return (
        "<h2>Layer by layer</h2><p class=soft>What cross-attention adds, in lengths of the state that it is added to; "
        "over how many patches a head spreads (e to the power of its entropy), on average.</p>"
        + table(head, rows, text=())
    )


STYLE = """
.caption { font-size: 22px; font-weight: 600; color: var(--mark); margin: 20px 0 8px; }
.inputs { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.inputs figure { margin: 8px 0; max-width: 480px; } .inputs img { display: block; max-width: 100%; }
.inputs figcaption { margin-top: 6px; font-size: 13px; color: var(--soft); max-width: 40ch; }
.frame { position: relative; overflow: hidden; width: fit-content; }
.window { position: absolute; outline: 2px solid #ffd54a; outline-offset: -2px;
  box-shadow: 0 0 0 999px rgb(0 0 0 / 60%); }
.exact { image-rendering: pixelated; }
.layers > input { position: absolute; opacity: 0; }
.layers > label { display: inline-block; padding: 3px 12px; margin: 0 6px 8px 0; border: 1px solid var(--line);
  border-radius: 99px; font-size: 13px; cursor: pointer; }
.layers > input:checked + label { background: var(--mark); color: var(--page); border-color: var(--mark); }
.layers > input:focus-visible + label { outline: 2px solid var(--ink); }
.tokens { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 14px; }
.seen { position: relative; background-size: 100% 100%; overflow: hidden; }
.seen .map { display: none; position: absolute; inset: 0; width: 100%; height: 100%; object-fit: fill;
  background: none; }
.seen small { position: absolute; right: 6px; bottom: 4px; color: #fff; text-shadow: 0 0 3px #000; }
.token { font-size: 18px; font-weight: 600; margin: 0; } .tokens .text > p.soft { margin: 0 0 6px; font-size: 12px; }
.bars li { position: relative; display: flex; justify-content: space-between; border: 0; padding: 1px 6px;
  margin: 0 0 2px; font-size: 13px; }
.bars i { position: absolute; inset: 0 auto 0 0; background: var(--mark); opacity: .18; border-radius: 3px; }
.bars b { font-weight: 400; color: var(--soft); font-variant-numeric: tabular-nums; }
.bars .chosen span { font-weight: 700; color: var(--mark); }
"""
