"""How hypernetworks are trained: the settings, and the questions each step asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.disturbance import undisturbed
from datamodules.records import LOCALITY, Probe, Record, kinds_of
from editors.schedule import Schedule, drawn
from editors.settings import one_of

OUTER = {"paraphrase": ("generalization",), "both": ("reliability", "generalization")}
"""Names of what the edit loss is taken on; the kinds can be given as well."""
OUTER_KINDS = kinds_of("request", "generalization", "portability")
KL_POSITIONS = ("all", "target")
STATISTICS = ("frozen", "online")
OBJECTIVES = ("weighted", "constrained")
OPTIMISERS = ("adam", "rmsprop")
TOKENS = ("all", "target")


@dataclass(frozen=True, kw_only=True)
class HypernetworkTraining(Schedule):
    """How hypernetworks are trained, with what `Schedule` says of all training.

    Attributes:
        optimiser: ``"adam"``, or centred ``"rmsprop"``.
        lr: Step size of the networks.
        edit_lr_lr: Step size of the learned edit step sizes.
        multiplier_lr: Step size of the multiplier of a constrained objective.
        objective: ``"weighted"`` sum of the edit loss, which is the target's negative
            log-likelihood, and the locality loss, which is the KL divergence from the unedited
            model; or the edit loss ``"constrained"`` to a locality loss below a margin.
        edit_weight: Weight of the edit loss in a weighted objective.
        locality_weight: Weight of the locality loss there.
        margin: Initial margin of a constrained objective (nats per token).
        margin_floor: Smallest margin.
        smoothing: Share of the edit loss's target probability that the other tokens get.
        outer: What the edit loss is taken on: a random probe of each of these kinds that a record
            has, or the request itself where it has none of them. Kinds that follow from an edit,
            as ``[generalization, one_hop]``, train it to be passed on, as in PropMEND (Liu et al.,
            2025). ``"paraphrase"`` is ``[generalization]``, ``"both"`` the request beside it.
        locality_kinds: Probe kinds on which the edited model is to stay as it was.
        locality_probes: How many of each kind are drawn for a record at a step.
        kl_positions: ``"all"`` tokens of a locality text, as in the authors' code, or only the
            positions that predict its ``"target"``.
        tokens: Which token rows of a request make its update: ``"all"`` that its loss reaches, or
            only those that predict a ``"target"`` token.
        statistics: Standardise with statistics of the first training requests, then ``"frozen"``;
            or ``"online"``, moving with every training step, as in the authors' code.
        statistics_edits: Number of those first requests.
        norm_weight: Weight of an edit's squared Frobenius norm, beside the objective: with
            ``locality_weight=0`` and ``locality_probes=0`` it stands in for the locality loss.
        joint_edits: How many requests of a batch make one edit together; 1: each has its own.
            Several sizes take turns, batch by batch. The last edit of a batch may have fewer.
        stream: Whether the edits of a batch are made one after another of one model, instead of
            each of the clean one; see `turns`.
        look_back: By the questions of how many edits before it an edit of a stream is judged too.
        fading: Weight of an edit's questions for each edit that followed it, from 0 to 1.
        passes: How many rounds training makes, each of the model as edited so far, and judged
            together.
        questions_per_batch: Outer questions and locality probes that go through the language model
            at once in training; the gradient does not depend on it.
        edits_per_batch: Requests that go through the language model at once outside training.
        rounds: How often a request is edited at most. Each further round is made on the edited
            model, for the requests whose target is not the answer yet (of a joint edit whose method
            ``holds``, for all of them).

    Raises:
        ValueError: a setting that is none of the above.
    """

    optimiser: str = "adam"
    lr: float = 1e-6
    edit_lr_lr: float = 1e-4
    multiplier_lr: float = 0.1
    objective: str = "weighted"
    edit_weight: float = 0.1
    locality_weight: float = 1.0
    margin: float = 1e-3
    margin_floor: float = 1e-5
    smoothing: float = 0.0
    outer: str | Sequence[str] = "paraphrase"
    locality_kinds: Sequence[str] = ("unrelated", "neighborhood")
    locality_probes: int = 1
    kl_positions: str = "all"
    tokens: str = "all"
    statistics: str = "frozen"
    statistics_edits: int = 1024
    norm_weight: float = 0.0
    joint_edits: Sequence[int] = (1,)
    stream: bool = False
    look_back: int = 10
    fading: float = 0.95
    passes: int = 1
    questions_per_batch: int = 256
    edits_per_batch: int = 64
    rounds: int = 1

    SHARES = (*Schedule.SHARES, "smoothing", "fading")
    AT_LEAST_ONE = (
        *Schedule.AT_LEAST_ONE,
        "statistics_edits",
        "questions_per_batch",
        "edits_per_batch",
        "rounds",
        "passes",
    )
    NOT_NEGATIVE = (
        *Schedule.NOT_NEGATIVE,
        *("lr", "edit_lr_lr", "multiplier_lr", "edit_weight", "locality_weight", "margin"),
        *("norm_weight", "look_back", "locality_probes"),
    )

    def __post_init__(self):
        super().__post_init__()
        one_of("optimiser", self.optimiser, OPTIMISERS)
        one_of("objective", self.objective, OBJECTIVES)
        for kind in self.outer_kinds:
            one_of("outer", kind, (*OUTER, *OUTER_KINDS))
        one_of("kl_positions", self.kl_positions, KL_POSITIONS)
        one_of("tokens", self.tokens, TOKENS)
        one_of("statistics", self.statistics, STATISTICS)
        for kind in self.locality_kinds:
            one_of("locality_kinds", kind, LOCALITY)
        if not 0 <= self.margin_floor <= self.margin:
            raise ValueError(
                f"margin_floor must be from 0 to margin={self.margin}, got {self.margin_floor}"
            )
        sizes = self.joint_edits
        if isinstance(sizes, int | str) or not sizes or not all(size >= 1 for size in sizes):
            raise ValueError(f"joint_edits must be a list of numbers from 1, got {sizes}")

    @property
    def outer_kinds(self) -> Sequence[str]:
        """The kinds of probes that the edit loss is taken on."""
        if isinstance(self.outer, str):
            return OUTER.get(self.outer, (self.outer,))
        return tuple(self.outer)

    def joint(self, batch_index: int, records: int) -> int:
        """How many requests make one edit together, in a batch of ``records`` of an epoch.

        Raises:
            ValueError: an epoch's first batch, which is a full one, has fewer records than that.
        """
        most = max(self.joint_edits)
        if batch_index == 0 and records < most:
            raise ValueError(
                f"joint_edits={most}: a batch has only {records} records; "
                "set batch_size of the data to at least as many"
            )
        return self.joint_edits[batch_index % len(self.joint_edits)]


@dataclass(frozen=True)
class StepQuestions:
    """The questions of one step to the edited model: outer questions, then locality probes.

    Attributes:
        probes: All of them.
        record: Which record of the step's batch each belongs to.
        outer: How many of them are outer questions.
    """

    probes: tuple[Probe, ...]
    record: tuple[int, ...]
    outer: int


def questions(
    records: Sequence[Record],
    settings: HypernetworkTraining,
    generator: np.random.Generator,
    joint: int = 1,
) -> StepQuestions:
    """Draw the questions of one step, in which each ``joint`` successive records are one edit."""
    groups = (records[start : start + joint] for start in range(0, len(records), joint))
    records = [record for group in groups for record in undisturbed(group)]
    outer, locality = [], []
    for index, record in enumerate(records):
        outer += [(index, probe) for probe in _outer(record, settings.outer_kinds, generator)]
        for kind in settings.locality_kinds:
            probes = drawn(record.of_kind(kind), settings.locality_probes, generator)
            locality += [(index, probe) for probe in probes]
    record, probes = zip(*outer, *locality, strict=True)
    return StepQuestions(probes, record, len(outer))


def _outer(record: Record, kinds: Sequence[str], generator: np.random.Generator) -> list[Probe]:
    requests = list(record.of_kind("reliability"))
    asked = []
    for kind in kinds:
        asked += requests if kind == "reliability" else drawn(record.of_kind(kind), 1, generator)
    return asked or requests
