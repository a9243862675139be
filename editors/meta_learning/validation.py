"""How a hypernetwork is judged while it is trained: three shares of exactly matched answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.records import Record
from edits.weights import WeightEdit
from models.language_model import LanguageModel

LOCALITY = ("unrelated", "neighborhood")
CLASSES = {
    "reliability": ("reliability",),
    "generalization": ("generalization",),
    "locality": LOCALITY,
}


class Validation(nn.Module):
    """Shares (0 to 1) of probes whose answer is right in every token, teacher-forced.

    Right is the probe's target for ``reliability`` and ``generalization``, and for ``locality``
    what the unedited model says in its place. NaN for a class without probes.
    """

    def __init__(self):
        super().__init__()
        self.metrics = nn.ModuleDict({name: MeanMetric() for name in CLASSES})

    def update(
        self, language_model: LanguageModel, edit: WeightEdit, records: Sequence[Record]
    ) -> None:
        """Judge edit n by the probes of record n."""
        for name, kinds in CLASSES.items():
            asked = [(n, probe) for n, r in enumerate(records) for probe in r.of_kind(*kinds)]
            right = torch.zeros(0)
            if asked:
                right = _right(language_model, edit, asked, local=name == "locality")
            mean = right.mean() if asked else torch.zeros(())
            metric = self.metrics[name]
            metric.update(mean.to(metric.device), weight=len(asked))

    def success(self) -> Tensor:
        """Share of the edits whose own request is answered with the target."""
        return self.metrics["reliability"].compute()

    def score(self) -> Tensor:
        """Harmonic mean of the shares, of those that have probes; 0 if one of them is 0."""
        shares = torch.stack([metric.compute() for metric in self.metrics.values()])
        return 1 / (1 / shares[~shares.isnan()]).mean()


def _right(
    language_model: LanguageModel, edit: WeightEdit, asked: list[tuple], local: bool
) -> Tensor:
    rows = [n for n, _ in asked]
    prompts = [probe.prompt for _, probe in asked]
    targets = [probe.target for _, probe in asked]
    after = edit.edited(language_model).score(prompts, targets, rows)
    wanted = language_model.score(prompts, targets).predicted if local else after.targets
    pairs = zip(after.predicted, wanted, strict=True)
    return torch.tensor([float(torch.equal(predicted, right)) for predicted, right in pairs])
