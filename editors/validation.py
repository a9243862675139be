"""How an editor is judged while it is trained: three shares of exactly matched answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.records import KINDS, Record
from edits.edit import Edit
from models.language_model import LanguageModel

JUDGED = ("reliability", "generalization", "unrelated", "neighborhood")


class Validation(nn.Module):
    """Shares (0 to 1) of probes whose answer is right in every token, teacher-forced, by kind.

    Right is the probe's target for ``reliability`` and ``generalization``, and what the unedited
    model says in its place for the others, which ``locality`` holds together. NaN for a kind
    without probes.
    """

    def __init__(self):
        super().__init__()
        self.metrics = nn.ModuleDict({name: MeanMetric() for name in (*JUDGED, "locality")})

    def update(self, language_model: LanguageModel, edit: Edit, records: Sequence[Record]) -> None:
        """Judge edit n by the probes of record n, or a single edit by those of all records."""
        for kind in JUDGED:
            local = KINDS[kind].local
            asked = [(n, probe) for n, r in enumerate(records) for probe in r.of_kind(kind)]
            mean = torch.zeros(())
            if asked or language_model.sharded:
                right = _right(language_model, edit, asked, local)
                mean = right.mean() if asked else mean
            for name in (kind, "locality") if local else (kind,):
                metric = self.metrics[name]
                metric.update(mean.to(metric.device), weight=len(asked))

    def success(self) -> Tensor:
        """Share of the edits whose own request is answered with the target."""
        return self.metrics["reliability"].compute()

    def score(self) -> Tensor:
        """Harmonic mean of the kinds' shares, of those that have probes; 0 if one of them is 0.

        Each kind of locality counts by itself: where they are averaged, many easy probes hide that
        the hard ones are lost.
        """
        shares = torch.stack([self.metrics[kind].compute() for kind in JUDGED])
        return 1 / (1 / shares[~shares.isnan()]).mean()


def _right(language_model: LanguageModel, edit: Edit, asked: list[tuple], local: bool) -> Tensor:
    rows = [n if len(edit) > 1 else 0 for n, _ in asked]
    prompts = [probe.prompt for _, probe in asked]
    targets = [probe.target for _, probe in asked]
    after = edit.edited(language_model).score(prompts, targets, rows)
    wanted = language_model.score(prompts, targets).predicted if local else None
    return torch.tensor(after.exact(wanted), dtype=torch.float32)
