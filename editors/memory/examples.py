"""What SERAC is trained on: questions in and out of the scope of the requests of a step."""

# R requests of a step, Q questions, P pairs of a question and a request, d width of a state

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
import torch
from torch import Tensor

from datamodules.records import Probe, Record, Request, requests_of
from editors.memory.training import SeracTraining
from editors.schedule import drawn
from models.embedding import mean_states
from models.language_model import LanguageModel


@dataclass(frozen=True)
class Examples:
    """The questions of one step, and which of the step's requests they are about.

    Requests are numbered through the step's records, in order.

    Attributes:
        probes: Q questions; those in the scope of a request come first.
        record: the record that each belongs to.
        request: the request in whose scope each of the first ones is.
        negatives: ``[P, 2]``, pairs of a question and a request that it is not about.
    """

    probes: tuple[Probe, ...]
    record: tuple[int, ...]
    request: tuple[int, ...]
    negatives: Tensor

    @property
    def inside(self) -> int:
        """How many questions are in the scope of a request."""
        return len(self.request)

    @property
    def positives(self) -> Tensor:
        """Pairs ``[inside, 2]`` of a question and the request that it is about."""
        return _pairs(list(enumerate(self.request)))

    def draw_inside(self, count: int, generator: np.random.Generator) -> list[int]:
        """At most ``count`` of each record's questions in scope, drawn."""
        sample, counts = [], Counter()
        for at in generator.permutation(self.inside).tolist():
            if counts[self.record[at]] < count:
                counts[self.record[at]] += 1
                sample.append(at)
        return sample


def examples(
    records: Sequence[Record],
    settings: SeracTraining,
    hard: HardNegatives,
    generator: np.random.Generator,
) -> Examples:
    """Draw the questions of one step; a whole step has hard negatives, or has none."""
    inside, outside = [], []
    for index, record in enumerate(records):
        positives = record.of_kind(*settings.positive_kinds) or record.of_kind("reliability")
        inside += [(index, p) for p in drawn(positives, settings.positives, generator)]
        for kind in settings.negative_kinds:
            negatives = drawn(record.of_kind(kind), settings.negatives, generator)
            outside += [(index, p) for p in negatives]
    if generator.random() < settings.hard_share:
        hard_probes = enumerate(hard.draw(records, generator))
        outside += [(index, p) for index, p in hard_probes if p is not None]
    record, probes = zip(*inside, *outside, strict=True)
    starts = list(accumulate((len(r.requests) for r in records), initial=0))
    request = tuple(starts[index] + _request_of(probe, records[index]) for index, probe in inside)
    pairs = [
        (at, number)
        for at in range(len(inside), len(probes))
        for number in range(starts[record[at]], starts[record[at] + 1])
    ]
    if settings.all_negatives:
        pairs += _others(records, probes, record, len(inside))
    return Examples(probes, record, request, _pairs(pairs))


def _request_of(probe: Probe, record: Record) -> int:
    """Which of a record's requests a probe in scope is about.

    The one that it puts word by word, or else the first whose subject it mentions, or the first.
    """
    text = probe.prompt.casefold()

    def distance(request: Request) -> tuple[bool, bool]:
        return request.prompt != probe.prompt, request.subject.casefold() not in text

    return min(range(len(record.requests)), key=lambda n: distance(record.requests[n]))


def _pairs(pairs: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def _others(
    records: Sequence[Record], probes: Sequence[Probe], owner: Sequence[int], inside: int
) -> list[tuple[int, int]]:
    """Pairs of a question and another record's request whose subject it does not mention."""
    requests = [(at, r.subject.casefold()) for at, rec in enumerate(records) for r in rec.requests]
    texts = [probe.prompt.casefold() for probe in probes]
    return [
        (at, number)
        for at, text in enumerate(texts)
        for number, (record, subject) in enumerate(requests)
        if record != owner[at]
        and subject not in text
        and (at >= inside or subject not in records[owner[at]].subjects)
    ]


class HardNegatives:
    """Requests of a pool that read like another one, but are about another subject.

    Similarity is the cosine of the unedited language model's mean states, less their mean over the
    pool. It does not change while the classifier learns, so that a resumed training draws the same.

    Args:
        language_model: the unedited model.
        records: the training records; the first of their requests are the pool.
        settings: of the training.

    Raises:
        ValueError: all records are about one subject.
    """

    def __init__(
        self, language_model: LanguageModel, records: Sequence[Record], settings: SeracTraining
    ):
        pool = {r.prompt: r for r in requests_of(records[: settings.pool])[: settings.pool]}
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
        """One question for each record: of the most similar, one in proportion to e^(cos / t).

        A record of several requests has the largest of their cosines. None for a record of whose
        subjects each request of the pool mentions one.
        """
        prompts = [request.prompt for request in requests_of(records)]
        states = mean_states(self.language_model, prompts) - self.mean
        cosines = torch.nn.functional.normalize(states, dim=1) @ self.states.T  # [R, pool]
        parts = cosines.split([len(record.requests) for record in records])
        pairs = zip(records, parts, strict=True)
        return [self._draw(record, part.amax(0), generator) for record, part in pairs]

    def _draw(
        self, record: Record, cosines: Tensor, generator: np.random.Generator
    ) -> Probe | None:
        settings = self.settings
        ranked = cosines.argsort(descending=True).tolist()
        # a request mentions its own subject
        others = (at for at in ranked if not any(s in self.texts[at] for s in record.subjects))
        nearest = list(islice(others, settings.hard_skipped + settings.hard_among))
        near = nearest[settings.hard_skipped :] or nearest[-1:]
        if not near:
            return None
        weights = (cosines[near] / settings.hard_temperature).double().softmax(0).numpy()
        request = self.requests[near[generator.choice(len(near), p=weights)]]
        return Probe("unrelated", request.prompt, request.target)
