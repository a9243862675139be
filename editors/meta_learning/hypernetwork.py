"""Shared by all hypernetworks: how they are trained, and how they make edits.

A hypernetwork turns the factors of a request's gradient into weight updates. It is trained
through the updates: the edited model is to give the new target after a paraphrase, and to answer
locality probes as before. The factors are constants, so that no second-order gradient is needed.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from datamodules.disturbance import undisturbed
from datamodules.loops import training_records
from datamodules.records import Record, Request, requests_of
from editors.editor import Group
from editors.meta_learning.batches import chunks
from editors.meta_learning.decoupled import constant, decoupled
from editors.meta_learning.factors import Factors, factors_of
from editors.meta_learning.layers import default_layers
from editors.meta_learning.objective import objective_of
from editors.meta_learning.optimiser import optimiser
from editors.meta_learning.outer_loss import outer_parts
from editors.meta_learning.rounds import failing, scattered
from editors.meta_learning.training import HypernetworkTraining, questions
from editors.meta_learning.transform import Transforms
from editors.meta_learning.turns import turns
from editors.settings import named
from editors.trained import TrainedEditor
from editors.validation import Validation
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.language_model import LanguageModel


class Hypernetwork(TrainedEditor[WeightEdit]):
    """An editor whose networks turn factors into updates; a batch is a list of records.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to edit; by default the feed-forward maps ``mlp_in`` and
            ``mlp_out`` of the last three blocks, or of the last two of both stacks.
        training: how the networks are trained, and how often a request is edited.

    Raises:
        ValueError: the model has no such layers.
    """

    BUNDLES: ClassVar[Mapping[str, type]] = {"training": HypernetworkTraining}
    training_settings: HypernetworkTraining

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        training: HypernetworkTraining = HypernetworkTraining(),  # noqa: B008 - frozen
    ):
        super().__init__(language_model, training)
        self.layers = default_layers(language_model) if layers is None else named(layers)
        self.objective = objective_of(training)
        self.transforms: Transforms | None = None  # set by a method that has them
        joint = training.stream or max(training.joint_edits) > 1  # so in validation too
        self.joint_validation = Validation() if joint else None

    def in_precision(self) -> Self:
        """Networks in float64 where the language model is; called when they are all there."""
        return self.double() if self.language_model.dtype == torch.float64 else self

    @property
    def in_step(self) -> bool:
        """Whether there is one round only, so that no pass depends on answers."""
        return self.training_settings.rounds == 1

    # what a method is

    history: bool = False
    """Whether an edit carries its keys, so that the next one of the edited model can spare them."""

    holds: ClassVar[bool] = False
    """Whether a further round of a joint edit is made for all its requests, not only for those that
    fail: in methods whose rows of small gradient hold the layer where it is."""

    @abstractmethod
    def updates(
        self,
        requests: Sequence[Request],
        factors: Mapping[str, Factors],
        joint: bool,
        after: WeightEdit | None,
    ) -> dict[str, LowRank | Dense]:
        """Each layer's update: one a request, or with ``joint`` a single one for all of them.

        ``factors`` are those of the model edited by ``after``: one edit for all the requests, or
        one for each. Its past keys are those to be spared.
        """

    def observe(self, factors: Mapping[str, Factors], gather: bool) -> None:
        """Take rows into the statistics, if the method has any; see `Normaliser.update`."""
        if self.transforms is not None:
            self.transforms.observe(factors, gather)

    @property
    def observed(self) -> bool:
        """Whether the method's statistics, if it has any, have been collected."""
        return self.transforms is None or self.transforms.observed

    def edit_lrs(self) -> dict[str, nn.Parameter]:
        """Learned step sizes ``[layers]`` by name; their own outer step size is `edit_lr_lr`."""
        return {}

    # edits

    @torch.no_grad()
    def compute(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """See `Editor.compute`; of several groups, those of one request are edited side by side."""
        joint = max(map(len, groups)) > 1
        if joint and len(groups) > 1:
            return WeightEdit.stack([self.compute([group], after) for group in groups])
        requests = [request for group in groups for request in group]
        edit = self._round(requests, joint, after)
        edit = edit if after is None else after.plus(edit)
        for _ in range(self.training_settings.rounds - 1):
            failed = failing(self.language_model, edit, requests)
            if not failed:
                break
            edit = edit.plus(self._again(requests, failed, joint, edit))
        return self.remembering(edit, requests, joint) if self.history else edit

    def _round(
        self, requests: Sequence[Request], joint: bool, after: WeightEdit | None
    ) -> WeightEdit:
        return self.propose(requests, self.factors(requests, after), joint, after)

    def _again(
        self, requests: Sequence[Request], failed: Sequence[int], joint: bool, edit: WeightEdit
    ) -> WeightEdit:
        """The addition of a further round to an edit that failed for these of its requests."""
        failures = [requests[number] for number in failed]
        if joint:
            return self._round(requests if self.holds else failures, True, edit)
        again = self._round(failures, False, edit.select(failed))
        return scattered(again, failed, len(requests))

    def factors(
        self, requests: Sequence[Request], after: WeightEdit | None = None
    ) -> dict[str, Factors]:
        """Each layer's factors for the requests, on the model edited by ``after``.

        ``after`` is one edit for all the requests, or one for each.
        """
        settings = self.training_settings
        size, tokens = settings.edits_per_batch, settings.tokens
        return factors_of(
            self.language_model, self.layers, requests, size, after=after, tokens=tokens
        )

    def propose(
        self,
        requests: Sequence[Request],
        factors: Mapping[str, Factors],
        joint: bool,
        after: WeightEdit | None = None,
    ) -> WeightEdit:
        """The updates as an edit, without ``after``; differentiable for the networks."""
        with torch.autocast(self.device.type, enabled=False):
            updates = self.updates(requests, factors, joint, after)
        return WeightEdit(updates, self.name, self.language_model.fingerprint)

    def remembering(self, edit: WeightEdit, requests: Sequence[Request], joint: bool) -> WeightEdit:
        """The edit with the keys that the requests have in the model as it edits it."""
        keys = {}
        for layer, rows in self.factors(requests, edit).items():
            keys[layer] = rows.keys[None] if joint else rows.padded(rows.keys)
        updates = {layer: update.nothing(len(edit)) for layer, update in edit.updates.items()}
        return edit.plus(WeightEdit(updates, edit.editor, edit.model, keys))

    # training

    def on_fit_start(self) -> None:
        """Collect frozen statistics, unless a checkpoint brought them."""
        if self.training_settings.statistics == "frozen" and not self.observed:
            records = training_records(self.trainer)
            count = min(self.training_settings.statistics_edits, len(records))
            requests = requests_of(records[at] for at in range(count))
            self.collect(requests[: self.training_settings.statistics_edits])

    def collect(self, requests: Sequence[Request]) -> None:
        """Take the requests' rows into the statistics; in every process the same."""
        for part in chunks(requests, self.training_settings.edits_per_batch):
            self.observe(self.factors(part), gather=False)

    def training_step(self, records: Sequence[Record], batch_index: int) -> Tensor:
        """The objective of the records' edits, the mean over the turns they are made in."""
        settings, model = self.training_settings, self.language_model
        joint = settings.joint(batch_index, len(records))
        meet = len(records) if settings.stream else joint
        asked = questions(records, settings, self.draws(batch_index), meet)
        batch = model.encode([p.prompt for p in asked.probes], [p.target for p in asked.probes])
        groups = [requests_of(records[at : at + joint]) for at in range(0, len(records), joint)]
        group = torch.tensor(asked.record, device=batch.input_ids.device) // joint
        edit, now, losses = None, None, []
        for turn in turns(group, asked.outer, len(groups), settings):
            made = groups[turn.groups]
            edit = self._edits(made, now, together=joint > 1)
            outer = int((turn.rows < asked.outer).sum())
            part = batch.rows(turn.rows)
            parts = outer_parts(model, part, turn.owner, outer, turn.weights, settings, now)
            sizes = [update.squared().mean() for update in edit.updates.values()]
            size = torch.stack(sizes).sum()
            *both, loss = decoupled(edit, parts, self.objective)
            losses.append(torch.stack([loss + settings.norm_weight * size.to(loss), *both]))
            now = self._stands(made, edit, now) if settings.stream else None
        loss, edit_loss, locality_loss = torch.stack(losses).mean(0)
        assert edit is not None  # there is a turn at least
        self._log_step(edit, loss, edit_loss, locality_loss)
        # a loss that is not finite is to give gradients that are not, in every process
        return loss * torch.where(loss.isfinite(), 1.0, torch.nan)

    def _edits(self, groups: Sequence[Group], now: WeightEdit | None, together: bool) -> WeightEdit:
        """An edit for each group, of the model as it is now, by ``passes`` rounds."""
        edit = self._proposed(groups, now, together)
        for _ in range(self.training_settings.passes - 1):
            so_far = constant(edit) if now is None else now.plus(constant(edit))
            edit = edit.plus(self._proposed(groups, so_far, together))
        return edit

    def _proposed(
        self, groups: Sequence[Group], now: WeightEdit | None, together: bool
    ) -> WeightEdit:
        """A round of training: an edit for each group, of the model edited by ``now``."""
        requests = [request for group in groups for request in group]
        if now is not None and len(now) > 1:
            now = now.select([n for n, group in enumerate(groups) for _ in group])
        rows = self.factors(requests, now)
        if self.training_settings.statistics == "online":
            self.observe(rows, gather=True)
        return self._of_batch(groups, rows, together, now)

    def _stands(
        self, group: Sequence[Group], edit: WeightEdit, now: WeightEdit | None
    ) -> WeightEdit:
        """What a stream's next edit is made on top of, after that of one group."""
        edit = constant(edit) if now is None else now.plus(constant(edit))
        [requests] = group
        return self.remembering(edit, requests, joint=True) if self.history else edit

    def _of_batch(
        self,
        groups: Sequence[Group],
        factors: Mapping[str, Factors],
        together: bool,
        now: WeightEdit | None = None,
    ) -> WeightEdit:
        """An edit for each group of a batch; ``together``: also groups of one are joint edits.

        ``now`` is one edit for all, or one for each request.
        """
        if not together and all(len(group) == 1 for group in groups):
            return self.propose([request for [request] in groups], factors, False, now)
        starts = accumulate(map(len, groups), initial=0)
        edits = []
        for group, start in zip(groups, starts, strict=False):
            stop = start + len(group)
            part = {layer: rows.between(start, stop) for layer, rows in factors.items()}
            before = now if now is None or len(now) == 1 else now.select([start])
            edits.append(self.propose(group, part, True, before))
        return WeightEdit.stack(edits)

    def _log_step(
        self, edit: WeightEdit, loss: Tensor, edit_loss: Tensor, locality_loss: Tensor
    ) -> None:
        values = {"train/loss": loss}
        values |= {"train/edit_loss": edit_loss, "train/locality_loss": locality_loss}
        values |= {f"train/{name}": value for name, value in self.objective.state().items()}
        # Lightning sets the attribute on the trainer, but does not declare it
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if (self.global_step + 1) % every == 0:
            for name, rates in self.edit_lrs().items():
                pairs = zip(self.layers, rates, strict=True)
                values |= {f"train/{name}/{layer}": rate for layer, rate in pairs}
            values |= {f"train/update_norm/{n}": x.mean() for n, x in edit.norms().items()}
            values["train/skipped_steps"] = self.skipped_steps
        self.log_dict({name: value.detach().float() for name, value in values.items()})

    def optimizer_step(self, *args: Any, **keywords: Any) -> None:
        """Step, then bring the objective's parameters back into bounds."""
        super().optimizer_step(*args, **keywords)
        self.objective.after_step()

    def configure_optimizers(self) -> Any:
        """The optimiser of the settings; see `optimiser`."""
        settings = self.training_settings
        rates, multipliers = list(self.edit_lrs().values()), list(self.objective.parameters())
        others = {id(parameter) for parameter in (*rates, *multipliers)}
        nets = [p for p in self.parameters() if p.requires_grad and id(p) not in others]
        total = self.trainer.estimated_stepping_batches if settings.decay else math.inf
        return optimiser(nets, rates, multipliers, settings, total)

    # validation

    def validation_step(self, records: Sequence[Record], batch_index: int) -> None:
        """See `TrainedEditor.validation_step`; nothing while there are no statistics."""
        if self.observed:  # online ones are not, in the sanity check before the first step
            super().validation_step(records, batch_index)

    def judge(self, records: Sequence[Record]) -> None:
        """Judge an edit for each record, and one of them all if training makes joint edits.

        Training on streams makes that one in several parts, one on top of another.
        """
        super().judge(records)
        if self.joint_validation is not None:
            size = max(self.training_settings.joint_edits)
            size = size if self.training_settings.stream else len(records)
            first, *others = chunks(records, size)
            edit = self.edit(requests_of(first))
            for part in others:
                edit = self.edit(requests_of(part), edit)
            self.joint_validation.update(self.language_model, edit, undisturbed(records))

    def validations(self) -> dict[str, Validation]:
        """See `TrainedEditor.validations`."""
        joint = self.joint_validation
        return super().validations() | ({} if joint is None else {"joint_": joint})

    def on_validation_epoch_end(self) -> None:
        """Log the score; tell the objective of success."""
        if not self.observed:
            return
        super().on_validation_epoch_end()
        if self.trainer.state.fn is TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.objective.after_validation(self.validation.success())
