"""How an editor is judged while it is trained: three shares of exactly matched answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.records import KINDS, Record
from edits.edit import NOTHING, Edit
from models.language_model import LanguageModel
from scoring.questions import Questions
from scoring.scorers import exact_match

JUDGED = ("reliability", "generalization", "unrelated", "neighborhood")


class Validation(nn.Module):
    """Shares (0 to 1) of probes that `exact_match` takes as right, by kind.

    ``locality`` holds the local kinds together. NaN for a kind without probes.
    """

    def __init__(self):
        super().__init__()
        self.metrics = nn.ModuleDict({name: MeanMetric() for name in (*JUDGED, "locality")})

    def update(self, language_model: LanguageModel, edit: Edit, records: Sequence[Record]) -> None:
        """Judge edit n by the probes of record n, or a single edit by those of all records."""
        for kind in JUDGED:
            questions = Questions(records, kinds=(kind,), generate=(), contrasts=False)
            count, mean = len(questions.probes), torch.zeros(())
            if count or language_model.sharded:  # all processes ask, if it is in parts
                right = _right(language_model, edit, questions, KINDS[kind].local)
                mean = right.mean() if count else mean
            for name in (kind, "locality") if KINDS[kind].local else (kind,):
                metric = self.metric(name)
                metric.update(mean.to(metric.device), weight=count)

    def metric(self, name: str) -> MeanMetric:
        """The share of that kind, or of ``locality``."""
        return cast(MeanMetric, self.metrics[name])

    def success(self) -> Tensor:
        """Share of the requests that are answered with their target."""
        return self.metric("reliability").compute()

    def score(self) -> Tensor:
        """Harmonic mean of the kinds' shares, of those that have probes; 0 if one of them is 0.

        Each kind of locality counts by itself: where they are averaged, many easy probes hide that
        the hard ones are lost.
        """
        shares = torch.stack([self.metric(kind).compute() for kind in JUDGED])
        return 1 / (1 / shares[~shares.isnan()]).mean()


def _right(language_model: LanguageModel, edit: Edit, questions: Questions, local: bool) -> Tensor:
    """1 for each question that is answered as it should be, else 0."""
    after = questions.ask(edit.edited(language_model), each=len(edit) > 1)
    before = questions.ask(NOTHING.edited(language_model)) if local else after
    answers = zip(questions.probes, after, before, strict=True)
    return torch.tensor([exact_match(*answer) for answer in answers], dtype=torch.float32)
