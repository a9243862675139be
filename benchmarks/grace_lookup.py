"""How long a codebook takes to look questions up, by how many entries it holds.

``python benchmarks/grace_lookup.py``: milliseconds of one thread's CPU time, the least of several
rounds, for a batch of questions; beside it the product of matrices in it, and the same look-up
where each entry is an edit of its own. Keys are random, of a feed-forward layer's width.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from edits.codebook import Codebook
from edits.deferral import Rule, Table

SIZES = (1, 10, 100, 1_000, 10_000)
WIDTH, QUESTIONS, ROUNDS = 768, 64, 20


def milliseconds(call: Callable[[], object]) -> float:
    """The least time of a call."""
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return 1e3 * min(found)


def table(keys: Tensor) -> Table:
    """An entry for each of the keys, as far apart as random ones are; made without insertion."""
    count = len(keys)
    steps = tuple(range(count))
    prompts, labels = tuple(map(str, steps)), tuple((step,) for step in steps)
    radii = torch.full((count,), 0.5, dtype=torch.float64)
    return Table(Rule(), prompts, labels, (-1,) * count, keys, keys, steps, steps, radii)


def main() -> None:
    torch.set_num_threads(1)
    keys = torch.randn(max(SIZES), WIDTH)
    queries, none = torch.randn(QUESTIONS, WIDTH), torch.zeros(QUESTIONS, dtype=torch.long)
    queries[::2] = keys[torch.arange(QUESTIONS // 2) % min(SIZES)] + 1e-3
    print(f"| entries | {QUESTIONS} questions | their product of matrices | each its own edit |")
    print("|---|---|---|---|")
    for size in SIZES:
        book = Codebook((table(keys[:size]),), "layer", "last", "grace", "model")
        each = Codebook(
            tuple(table(key[None]) for key in keys[:size]), "layer", "last", "grace", "model"
        )
        assert book.lookup(queries, none).ge(0).sum() >= QUESTIONS // 2
        assert each.lookup(queries, none).ge(0).sum() >= QUESTIONS // 2
        times = [
            milliseconds(lambda book=book: book.lookup(queries, none)),
            milliseconds(lambda size=size: queries @ keys[:size].T),
            milliseconds(lambda each=each: each.lookup(queries, none)),
        ]
        print(f"| {size:,} | {' | '.join(f'{value:.2f}' for value in times)} |")


if __name__ == "__main__":
    main()
