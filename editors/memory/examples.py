"""What SERAC is trained on: questions in and out of the scope of the requests of a step."""

# B records, Q questions, P pairs of a question and a request, d width of an embedding

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from datamodules.records import Probe, Record
from editors.memory.training import SeracTraining
from editors.schedule import drawn
from models.embedding import mean_states
from models.language_model import LanguageModel


@dataclass(frozen=True)
class Examples:
    """The questions of one step, and which of the step's requests they are about.

    Attributes:
        probes: Q questions; those in scope of a request come first.
        record: the record that each belongs to.
        inside: how many are in the scope of their record's request.
        negatives: ``[P, 2]``, pairs of a question and a record whose request it is not about.
    """

    probes: tuple[Probe, ...]
    record: tuple[int, ...]
    inside: int
    negatives: Tensor

    @property
    def positives(self) -> Tensor:
        """Pairs ``[inside, 2]`` of a question and the record whose request it is about."""
        return _pairs([(at, self.record[at]) for at in range(self.inside)])

    def some_inside(self, count: int, generator: np.random.Generator) -> list[int]:
        """At most ``count`` of each record's questions in scope, drawn."""
        chosen, taken = [], Counter()
        for at in generator.permutation(self.inside).tolist():
            if taken[self.record[at]] < count:
                taken[self.record[at]] += 1
                chosen.append(at)
        return chosen


def examples(
    records: Sequence[Record],
    settings: SeracTraining,
    hard: HardNegatives,
    generator: np.random.Generator,
) -> Examples:
    """Draw the questions of one step; a whole step has hard negatives, or has none."""
    inside, outside = [], []
    for index, record in enumerate(records):
        found = record.of_kind(*settings.positive_kinds) or record.of_kind("reliability")
        inside += [(index, p) for p in drawn(found, settings.positives, generator)]
        for kind in settings.negative_kinds:
            found = drawn(record.of_kind(kind), settings.negatives, generator)
            outside += [(index, p) for p in found]
    if generator.random() < settings.hard_share:
        drawn_hard = enumerate(hard.draw(records, generator))
        outside += [(index, p) for index, p in drawn_hard if p is not None]
    record, probes = zip(*inside, *outside, strict=True)
    pairs = [(at, record[at]) for at in range(len(inside), len(probes))]
    if settings.all_negatives:
        pairs += _others(records, probes, record, len(inside))
    return Examples(probes, record, len(inside), _pairs(pairs))


def _pairs(pairs: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def _others(
    records: Sequence[Record], probes: Sequence[Probe], own: Sequence[int], inside: int
) -> list[tuple[int, int]]:
    """Pairs of a question and another record's request whose subject it does not mention."""
    subjects = [record.request.subject.casefold() for record in records]
    texts = [probe.prompt.casefold() for probe in probes]
    return [
        (at, other)
        for at, text in enumerate(texts)
        for other, subject in enumerate(subjects)
        if other != own[at]
        and subject not in text
        and (at >= inside or subject != subjects[own[at]])
    ]


class HardNegatives:
    """Requests of a pool that read like another one, but are about another subject.

    Likeness is the cosine of the mean states of the unedited language model, whose mean over the
    pool is taken off. It does not change while the classifier learns, so that a resumed training
    draws the same.

    Args:
        language_model: the unedited model.
        records: the training records; the first of them are the pool.
        settings: of the training.

    Raises:
        ValueError: all records are about one subject.
    """

    def __init__(
        self, language_model: LanguageModel, records: Sequence[Record], settings: SeracTraining
    ):
        pool = {record.request.prompt: record.request for record in records[: settings.pool]}
        self.requests = list(pool.values())
        self.subjects = [request.subject.casefold() for request in self.requests]
        self.texts = [request.prompt.casefold() for request in self.requests]
        if len(set(self.subjects)) < 2:
            raise ValueError(
                f"the training records are about {len(set(self.subjects))} subject; SERAC needs 2 "
                "at least, so that some questions are not about a request"
            )
        self.language_model = language_model
        self.settings = settings
        states = mean_states(language_model, [request.prompt for request in self.requests])
        self.mean = states.mean(0)
        self.states = torch.nn.functional.normalize(states - self.mean, dim=1)  # [pool, d]

    def draw(self, records: Sequence[Record], generator: np.random.Generator) -> list[Probe | None]:
        """One question for each record: of the most alike, one in proportion to e^(cos / t).

        None for a record whose subject all of the pool mention.
        """
        prompts = [record.request.prompt for record in records]
        states = mean_states(self.language_model, prompts) - self.mean
        cosines = torch.nn.functional.normalize(states, dim=1) @ self.states.T  # [B, pool]
        return [self._one(*pair, generator) for pair in zip(records, cosines, strict=True)]

    def _one(self, record: Record, cosines: Tensor, generator: np.random.Generator) -> Probe | None:
        own, settings = record.request.subject.casefold(), self.settings
        ranked = cosines.argsort(descending=True).tolist()
        others = (at for at in ranked if self.subjects[at] != own and own not in self.texts[at])
        found = list(islice(others, settings.hard_skipped + settings.hard_among))
        near = found[settings.hard_skipped :] or found[-1:]
        if not near:
            return None
        weights = (cosines[near] / settings.hard_temperature).double().softmax(0).numpy()
        request = self.requests[near[generator.choice(len(near), p=weights)]]
        return Probe("unrelated", request.prompt, request.target)
