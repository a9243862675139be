"""How SERAC is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.records import LOCALITY, PROBE_KINDS
from editors.schedule import Schedule
from editors.settings import one_of

PARTS = ("both", "classifier", "counterfactual")


@dataclass(frozen=True, kw_only=True)
class SeracTraining(Schedule):
    """How SERAC is trained, with what `Schedule` says of all training.

    Attributes:
        train: Which of the two models: ``"both"``, or only the ``"classifier"`` or the
            ``"counterfactual"`` one.
        lr: Step size of the classifier.
        counterfactual_lr: Step size of the counterfactual model.
        counterfactual_weight: Weight of the counterfactual model's loss.
        negative_weight: Weight of the pairs out of scope in the classifier's loss.
        positive_kinds: Probe kinds that are in the scope of one of a record's requests.
        positives: How many such questions are drawn for a record at a step.
        negative_kinds: Probe kinds that are out of the scope of all its requests.
        negatives: How many of each such kind are drawn for a record at a step.
        all_negatives: Compare questions also with the requests of the step's other records.
        conditioned: How many of the questions in scope the counterfactual model learns from, for a
            record at a step.
        pool: How many training requests, from the first on, are candidates for hard negatives.
        hard_share: Share of the steps that have a hard negative for each record.
        hard_skipped: How many of the most similar candidates are left out.
        hard_among: How many of the next ones there are to draw from.
        hard_temperature: They are drawn in proportion to e to the power of cosine / temperature.

    Raises:
        ValueError: a setting that is none of the above.
    """

    train: str = "both"
    lr: float = 1e-5
    counterfactual_lr: float = 1e-5
    counterfactual_weight: float = 0.1
    negative_weight: float = 1.0
    positive_kinds: Sequence[str] = ("reliability", "generalization")
    positives: int = 1
    negative_kinds: Sequence[str] = ("unrelated",)
    negatives: int = 1
    all_negatives: bool = False
    conditioned: int = 1
    pool: int = 4096
    hard_share: float = 0.5
    hard_skipped: int = 25
    hard_among: int = 75
    hard_temperature: float = 0.1

    SHARES = (*Schedule.SHARES, "hard_share")
    AT_LEAST_ONE = (
        *Schedule.AT_LEAST_ONE,
        "positives",
        "negatives",
        "conditioned",
        "pool",
        "hard_among",
    )

    def __post_init__(self):
        super().__post_init__()
        one_of("train", self.train, PARTS)
        for kind in self.positive_kinds:
            one_of("positive_kinds", kind, [k for k in PROBE_KINDS if k not in LOCALITY])
        for kind in self.negative_kinds:
            one_of("negative_kinds", kind, LOCALITY)
