"""The figures of the shipped model's card: ``python -m benchmarks.atlas_model [FOLDER]``.

Prints a Markdown table; one core takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from evaluation.knowledge import (
    Combination,
    combinations,
    perplexity,
    recall,
    with_alias,
    with_context,
    with_new_fact,
)

from datamodules.atlas.world import World
from models.atlas import FOLDER
from models.language_model import LanguageModel


def figures(model: LanguageModel, world: World, sample: int | None) -> dict[str, str]:
    """What is measured, and the value; ``sample``: of how many combinations, None for all."""
    every = combinations(world)
    asked = every if sample is None else random.Random(0).sample(every, min(sample, len(every)))
    unseen = [c for c in asked if c.is_held_out]
    surprise = perplexity(model, [c.sentence for c in unseen])
    return {
        "facts": f"{len(world.facts):,}",
        "recall, all facts and prompts": share(model, direct(asked)),
        "recall, held-out combinations": share(model, direct(unseen)),
        "recall behind one unrelated sentence": share(model, behind(world, asked, 1)),
        "recall behind two unrelated sentences": share(model, behind(world, asked, 2)),
        "recall by an alias of the subject": share(model, with_alias(world, asked)),
        "new fact in front is followed": share(model, with_new_fact(world, asked, True)),
        "kept when the new fact is about another subject": share(
            model, with_new_fact(world, asked, False)
        ),
        "perplexity, held-out combinations": f"{surprise:.3f}",
    }


def direct(asked: Sequence[Combination]) -> list[tuple[str, str]]:
    """The bare prompts and the true answers."""
    return [(c.prompt, c.fact.object) for c in asked]


def behind(world: World, asked: Sequence[Combination], sentences: int) -> list[tuple[str, str]]:
    """The prompts behind unrelated sentences, and the true answers."""
    return list(
        zip(with_context(world, asked, sentences), [c.fact.object for c in asked], strict=True)
    )


def share(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> str:
    """Recall in percent, and of how many."""
    return f"{100 * recall(model, *zip(*pairs, strict=True)):.2f} % of {len(pairs):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default=str(FOLDER), help="the model's folder")
    parser.add_argument("--sample", type=int, help="combinations to ask, instead of all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = LanguageModel.load(arguments.folder)
    files = [path for path in Path(arguments.folder).iterdir() if path.is_file()]
    rows = figures(model, World(), arguments.sample) | {
        "parameters": f"{sum(p.numel() for p in model.model.parameters()):,}",
        "size of the folder": f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB",
    }
    print("| what | value |\n| --- | ---: |")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
