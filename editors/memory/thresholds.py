"""How near is near: a threshold by the share of questions that it lets pass in error."""

# M facts, Q questions, d width of an embedding

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datamodules.records import Probe, Record, kinds_of

log = logging.getLogger(__name__)
Embed = Callable[[Sequence[str]], Tensor]
"""Directions ``[Q, d]`` of questions."""

FACTS = 500  # of the pool, which stand for a memory
WITHIN, BEYOND = kinds_of("generalization"), ("neighborhood", "unrelated", "other_relation")


def threshold_of(
    records: Sequence[Record],
    keys: Tensor,
    queries: Embed,
    share: float,
) -> float:
    """The similarity that this share of the questions that no fact answers reaches.

    The memory is the first `FACTS` records; each of their locality probes is compared with the
    facts of all of them whose subject it does not mention, and with that of its own record.

    Args:
        records: the pool.
        keys: ``[M, d]``, the directions of their facts.
        queries: gives directions ``[Q, d]`` of questions.
        share: of false hits, 0 to 1.

    Raises:
        ValueError: the pool has no question beyond its facts.
    """
    records, keys = records[:FACTS], keys[:FACTS]
    beyond = _best(records, keys, queries, BEYOND)
    if not len(beyond):
        raise ValueError(f"false_hits: the pool's records have no probes {', '.join(BEYOND)}")
    # what reaches it is near, so that it lies just above the last one that is to be refused
    at = max(0, len(beyond) - 1 - int(share * len(beyond)))
    value = float(torch.nextafter(beyond.sort().values[at], torch.tensor(2.0)))
    within = _best(records, keys, queries, WITHIN)
    hits = (within >= value).float().mean().item() if len(within) else float("nan")
    log.info("threshold %.3f: %.1f %% of the pool's paraphrases are near", value, 100 * hits)
    return value


def _best(
    records: Sequence[Record],
    keys: Tensor,
    queries: Embed,
    kinds: Sequence[str],
) -> Tensor:
    """The similarity ``[Q]`` of each question of these kinds to the fact nearest to it."""
    asked = [(n, probe) for n, record in enumerate(records) for probe in record.of_kind(*kinds)]
    if not asked:
        return torch.zeros(0)
    found = queries([probe.prompt for _, probe in asked]) @ keys.T
    subjects = [record.requests[0].subject.casefold() for record in records]
    for row, (own, probe) in enumerate(asked):
        answered = _mentioned(subjects, probe)
        found[row, [at for at in answered if at != own]] = -1.0
    return found.max(1).values


def _mentioned(subjects: Sequence[str], probe: Probe) -> list[int]:
    text = probe.prompt.casefold()
    return [at for at, subject in enumerate(subjects) if subject in text]
