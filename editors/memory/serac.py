"""SERAC: edits stay text; a classifier sends questions about them to a second model.

Mitchell, Lin, Bosselut, Manning, Finn: "Memory-Based Model Editing at Scale", ICML 2022,
https://arxiv.org/abs/2206.06520. Departures from the authors' code, with the reason:

- a remembered edit is embedded once, when it is made; theirs embeds all of them at each question;
- the classifier never sees an answer: the key of an edit is its prompt, the query the bare
  question, in training as in use (theirs, for decoders, takes one word off the edit's text and
  leaves the answer in the query);
- hard negatives are compared by the unedited model's states, which needs no further model, and
  are never about the request's own subject, so that the nearest need not be left out;
- the default encoder is a copy of the language model's first blocks, the default counterfactual
  model a copy of the whole, so that nothing is to be fetched.
"""

# P pairs of question and request

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.loops import training_records
from datamodules.records import Record, Request, requests_of
from editors.checkpoints import state_of
from editors.editor import Group
from editors.memory.examples import Examples, HardNegatives, examples
from editors.memory.pair import Pair, counterfactual_of, scope_of
from editors.memory.similarity import Distance, balanced_bce
from editors.memory.training import SeracTraining
from editors.trained import TrainedEditor
from edits.edit import Edit
from edits.loading import load
from edits.routing import THRESHOLD, Entry, RoutedEdit
from models.language_model import LanguageModel

PAPER = SeracTraining()
SQUARED = Distance()


@final
class Serac(TrainedEditor[RoutedEdit]):
    """Remembers requests; answers what is in their scope by a model that reads them first.

    Args:
        language_model: the model to edit; it is never changed.
        classifier: ``"embedding"`` compares embeddings of question and edit, ``"cross_attention"``
            reads every pair of them.
        encoder: folder or hub id of the classifier's model; None: a copy of the language model.
        encoder_blocks: of such a copy, the first so many blocks; None: all.
        pooling: what of the encoder's states is a text's embedding; see `Pooled`.
        key: what the classifier reads of an edit; see `Scope`.
        separator: what stands between texts; None: the encoder's own.
        distance: of embeddings.
        counterfactual: folder or hub id of the counterfactual model; None: a copy of the language
            model.
        template: how an edit stands in front of a question; see `Pair`.
        start: checkpoint whose two models training starts from, as when one is trained after the
            other.
        training: how the two models are trained.
    """

    BUNDLES: ClassVar[Mapping[str, type]] = {"distance": Distance, "training": SeracTraining}
    UNSAVED = ("language_model", "start")
    training_settings: SeracTraining

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        classifier: str = "embedding",
        encoder: str | None = None,
        encoder_blocks: int | None = None,
        pooling: str = "first",
        key: str = "prompt",
        separator: str | None = None,
        distance: Distance = SQUARED,
        counterfactual: str | None = None,
        template: str = "{prompt} {target} {question}",
        start: str | None = None,
        training: SeracTraining = PAPER,
    ):
        super().__init__(language_model, training)
        scope = scope_of(
            language_model,
            classifier,
            encoder,
            encoder_blocks,
            pooling,
            key,
            separator,
            distance,
        )
        self.models = Pair(scope, counterfactual_of(language_model, counterfactual), template)
        for part, model in self._parts().items():
            model.requires_grad_(training.train in ("both", part))
        self.hard: HardNegatives | None = None
        if start is not None:
            self.load_state_dict(state_of(type(self), language_model, start))

    def _parts(self) -> dict[str, torch.nn.Module]:
        return {"classifier": self.models.scope, "counterfactual": self.models.counterfactual}

    # edits

    @torch.no_grad()
    def compute(self, groups: Sequence[Group], after: Edit | None) -> RoutedEdit:
        """See `Editor.compute`: each edit remembers the requests of its group.

        Their order does not matter, except that of several with the same prompt the last counts.

        Raises:
            ValueError: a request is too long to stand in front of a question, or ``after`` is no
                edit of this editor.
        """
        if after is not None and not (
            isinstance(after, RoutedEdit) and after.models is self.models
        ):
            raise ValueError(f"after: {self.name} goes on from its own edits only")
        caches = tuple(_entries(group) for group in groups)
        entries = [entry for cache in caches for entry in cache]
        self.models.check(entries)
        keys, owner = self.models.keys(entries), self.language_model.fingerprint
        edit = RoutedEdit(caches, keys, self.models, self.name, owner)
        return edit if after is None else after.plus(edit)

    def load(self, path: str | Path) -> Edit:
        """An edit that was saved, to be used with this editor's models; see `Editor.load`."""
        return load(path, self.language_model, self.models)

    # training

    @property
    def in_step(self) -> bool:
        """No: the counterfactual model answers the questions in scope."""
        return False

    def on_fit_start(self) -> None:
        """Make the pool of hard negatives."""
        records = training_records(self.trainer)
        count = min(self.training_settings.pool, len(records))  # a request in each, at least
        pool = [records[at] for at in range(count)]
        self.hard = HardNegatives(self.language_model, pool, self.training_settings)

    def training_step(self, records: Sequence[Record], batch_index: int) -> Tensor:
        """The classifier's loss, and the counterfactual model's given the right edit."""
        assert self.hard is not None  # made when fitting starts
        settings = self.training_settings
        generator = self.draws(batch_index)
        step = examples(records, settings, self.hard, generator)
        entries = [Entry(request.prompt, request.target) for request in requests_of(records)]
        losses, values = [], {}
        if settings.train != "counterfactual":
            loss, accuracy = self.classifier_loss(step, entries)
            values = {"train/classifier_loss": loss, "train/classifier_accuracy": accuracy}
            losses.append(loss)
        if settings.train != "classifier":
            loss = self.counterfactual_loss(step, entries, generator)
            values["train/counterfactual_loss"] = loss
            losses.append(settings.counterfactual_weight * loss)
        total = torch.stack(losses).sum()
        values |= {"train/loss": total, "train/skipped_steps": self.skipped_steps}
        self.log_dict({name: value.detach().float() for name, value in values.items()})
        return total

    def classifier_loss(self, step: Examples, entries: Sequence[Entry]) -> tuple[Tensor, Tensor]:
        """Balanced cross-entropy, and the mean of the two sides' shares (0 to 1) of right pairs."""
        prompts = [probe.prompt for probe in step.probes]
        pairs = torch.cat([step.positives, step.negatives])
        log_s = self.models.scope.of_pairs(prompts, entries, pairs)
        inside, outside = log_s.split([len(step.positives), len(step.negatives)])
        loss = balanced_bce(inside, outside, self.training_settings.negative_weight)
        right = inside > math.log(THRESHOLD), outside <= math.log(THRESHOLD)
        return loss, torch.stack([side.float().mean() for side in right if len(side)]).mean()

    def counterfactual_loss(
        self, step: Examples, entries: Sequence[Entry], generator: np.random.Generator
    ) -> Tensor:
        """Mean negative log-likelihood (nats per token) of answers behind the right edit."""
        sample = step.draw_inside(self.training_settings.conditioned, generator)
        model = self.models.counterfactual.rendered(self.language_model.rendering)
        prompts = [
            self.models.condition(entries[step.request[at]], step.probes[at].prompt)
            for at in sample
        ]
        batch = model.encode(prompts, [step.probes[at].target for at in sample])
        logits, targets, _ = model.target_logits(batch)
        return F.cross_entropy(logits, targets)

    def configure_optimizers(self) -> Any:
        """Adam with a step size for each model."""
        settings = self.training_settings
        rates = {"classifier": settings.lr, "counterfactual": settings.counterfactual_lr}
        groups = [
            {"params": list(model.parameters()), "lr": rates[part]}
            for part, model in self._parts().items()
            if settings.train in ("both", part)
        ]
        optimizer = torch.optim.Adam(groups)
        if not settings.warmup and not settings.decay:
            return optimizer
        total = self.trainer.estimated_stepping_batches if settings.decay else math.inf
        share = partial(settings.rate, total=total)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _entries(requests: Sequence[Request]) -> tuple[Entry, ...]:
    """The entries of an edit's requests; of several with the same prompt the last one stays."""
    last = {request.prompt: at for at, request in enumerate(requests)}
    return tuple(Entry(requests[at].prompt, requests[at].target) for at in sorted(last.values()))
