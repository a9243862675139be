"""What neurons that never fire do to ROME's direction, and what undoes it.

    python benchmarks/dead_neurons.py

Model: OPT layout, random weights, 4 blocks of width 128, ReLU; some neurons of one block are
silenced by their bias. For the keys of N requests, each way to solve gives directions u = C^-1 k.
Printed is how much the update along u disturbs the corpus's keys, u^T C u / (u^T k)^2, against the
least possible: the median over requests (1 is the best), or what was raised instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.atlas.data import AtlasData
from datamodules.atlas.text import AtlasText, corpus
from datamodules.records import requests_of
from editors.locate_then_edit.keys import subject_keys
from editors.locate_then_edit.statistics.coordinates import factor
from editors.locate_then_edit.statistics.moments import Moments
from models.language_model import LanguageModel
from models.pretraining import blank


def silenced(block: int, dead: int, rare: int, texts: list[str]) -> LanguageModel:
    """A model with neurons that never fire, and some that fire at one token of the texts."""
    lm = blank(
        AtlasText(),
        family="opt",
        hidden_size=128,
        word_embed_proj_dim=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=512,
        max_position_embeddings=256,
    )
    inner, seen = lm.module(lm.layer("mlp_in", block)), []
    hook = inner.register_forward_hook(lambda module, args, said: seen.append(said.flatten(0, -2)))
    with torch.no_grad():
        for start in range(0, len(texts), 100):
            batch = lm.encode(texts[start : start + 100], None)
            lm.hidden(batch)
            seen[-1] = seen[-1][batch.attention_mask.flatten().bool()]
        hook.remove()
        highest = torch.cat(seen).topk(2, dim=0).values[:, :rare].mean(0)
        inner.bias[:rare] -= highest  # between the two tokens that move it most
        inner.bias[rare : rare + dead] = -1e3
    return lm


def inverse(moment: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """As the authors of ROME solve, who take float32."""
    found = torch.linalg.inv(moment.to(dtype))
    return lambda keys: (keys.to(dtype) @ found).double()


def disturbance(directions: Tensor, keys: Tensor, moment: Tensor) -> Tensor:
    """Mean square change of the corpus's outputs for a unit change at the key, ``[N]``."""
    return ((directions @ moment) * directions).sum(1) / (directions * keys).sum(1).square()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--block", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = corpus(arguments.texts)
    requests = requests_of(AtlasData(limit=arguments.requests).records("test"))
    ways = {
        "inverse, float32": lambda moment: inverse(moment, torch.float32),
        "inverse, float64": lambda moment: inverse(moment, torch.float64),
        "ridge": lambda moment: factor(moment).solve,
        "live neurons only": lambda moment: factor(moment, live_only=True).solve,
    }
    print("| silenced | rank of C | " + " | ".join(ways) + " |\n|" + "---|" * (len(ways) + 2))
    for dead, rare in ((0, 0), (26, 0), (0, 26), (26, 26)):
        lm = silenced(arguments.block, dead, rare, list(texts))
        layer = lm.layer("mlp_out", arguments.block)
        moment = Moments(texts).of(lm, [layer])[layer].mean
        keys = subject_keys(lm, requests, ["{}"], [layer])[layer][0][:, 0].double()
        values, vectors = torch.linalg.eigh(moment)
        used = values > 1e-14 * values[-1]
        best = 1 / ((keys @ vectors[:, used]).square() / values[used]).sum(1)
        cells = [f"{dead} dead, {rare} at one token", f"{int(used.sum())} of {len(moment)}"]
        for solve in ways.values():
            try:
                ratios = disturbance(solve(moment)(keys), keys, moment) / best
                cells.append(f"{ratios.median():.4g}")
            except torch.linalg.LinAlgError as error:
                cells.append(type(error).__name__.removeprefix("_"))
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
