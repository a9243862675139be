"""KN: the feed-forward neurons that express a fact, and new values for them.

Dai et al., "Knowledge Neurons in Pretrained Transformers", ACL 2022,
https://arxiv.org/abs/2104.08696. Neurons whose attribution (see `attribution`) exceeds a share of
the greatest are the coarse set; of several prompts, those in the sets of enough of them remain. A
neuron's value is its row of the second projection: the old answer's embedding is taken from it and
the new one's added (section 5.1), or it is set to zero (section 5.2).

All neurons of a block get the same addition, so an update is a matrix of rank one, and an erasure
one of as many ranks as there are neurons: both are weight edits.

Departures from the authors' code: the embedding is the output head's row, which is the word
embedding where the two are tied; the old answer is what the model says, as in the code of Meng et
al. (NeurIPS 2022), whose weights of 2 and 1 are the defaults; the prompts to refine by are the
request's own in several contexts, as a request has no other; there are no prompts of other facts.
"""

# N edits, n requests of each, B = N * n, m contexts, L blocks, d_in neurons of a block

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from datamodules.records import Request
from editors.editor import Group
from editors.locate_then_edit.attribution import Integral, attributions
from editors.locate_then_edit.keys import placed
from editors.locate_then_edit.search.contexts import Contexts
from editors.settings import at_least, one_of
from editors.weight_editor import WeightEditor
from edits.updates import LowRank
from edits.weights import WeightEdit
from models.encoding import IGNORED
from models.hooks import full_precision, widened
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

ACTIONS = ("update", "erase")
MULTI_TOKEN = ("sum", "mean", "first")


@dataclass(frozen=True)
class Change:
    """What becomes of the neurons' values.

    Attributes:
        action: ``update`` them towards the new answer, or ``erase`` them.
        old_weight: how much of the old answer's embedding is subtracted.
        new_weight: how much of the new answer's is added.
        multi_token: the embedding of an answer of several tokens: their ``sum``, as the authors
            of ROME have it, ``mean``, or that of the ``first``.

    Raises:
        ValueError: an attribute is not one of the above.
    """

    action: str = "update"
    old_weight: float = 2.0
    new_weight: float = 1.0
    multi_token: str = "sum"

    def __post_init__(self):
        one_of("action", self.action, ACTIONS)
        one_of("multi_token", self.multi_token, MULTI_TOKEN)
        at_least(0, old_weight=self.old_weight, new_weight=self.new_weight)


CONTEXTS, INTEGRAL, CHANGE = Contexts(("{}",)), Integral(), Change()


class Kn(WeightEditor):
    """Changes the values of the neurons that an answer is attributed to.

    The answer is the request's ``target_true``; without one, the token that the model would say.

    Args:
        language_model: the model to edit.
        blocks: whose neurons are looked at, from the lowest up; None: all.
        threshold: of the greatest attribution to a prompt's answer, in 0..1; neurons above it are
            the prompt's.
        contexts: what the prompt is put into. The bare prompt alone gives the coarse set.
        share: of the contexts, in 0..1; neurons of more of them than that remain.
        integral: how attributions are taken.
        change: what becomes of the neurons' values.
        rows_per_batch: bounds the memory taken; results do not depend on it.

    Raises:
        ValueError: an argument is not one of the above, or embeddings are not as wide as values.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        blocks: Sequence[int] | None = None,
        threshold: float = 0.2,
        contexts: Contexts = CONTEXTS,
        share: float = 0.4,
        integral: Integral = INTEGRAL,
        change: Change = CHANGE,
        rows_per_batch: int = 1024,
    ):
        language_model.require_decoder_only(self.name)
        for name, value in (("threshold", threshold), ("share", share)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {value}")
        at_least(1, rows_per_batch=rows_per_batch)
        blocks = list(range(language_model.blocks) if blocks is None else blocks)
        if not blocks or blocks != sorted(set(blocks)):
            raise ValueError(f"blocks: expected some from the lowest up, got {blocks}")
        self.language_model = language_model
        self.blocks = blocks
        self.layers = [language_model.layer("mlp_out", block) for block in blocks]
        self._check_widths()
        self.threshold = threshold
        self.contexts = contexts
        self.share = share
        self.integral = integral
        self.change = change
        self.rows_per_batch = rows_per_batch
        self.templates: tuple[str, ...] = ()

    def _check_widths(self) -> None:
        model = self.language_model
        width = model.shape(self.layers[0])[1]
        wide = self._embeddings().shape[1]
        if wide != width:
            raise ValueError(
                f"kn adds embeddings to values; those of {model.name!r} are {wide} and {width} wide"
            )

    def _embeddings(self) -> Tensor:
        """The rows of the output head, ``[V, d_out]``."""
        return cast(nn.Linear, self.language_model.model.get_output_embeddings()).weight

    def prepare(self) -> None:
        """Takes the contexts, once."""
        self.templates = self.templates or self.contexts.of(self.language_model)

    @torch.no_grad()
    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """Each request's neurons in the same model; a group's changes together."""
        edits, requests = len(groups), [request for group in groups for request in group]
        chosen = self.neurons(requests).unflatten(0, (edits, -1))  # [N, n, L, d_in]
        additions = self._additions(requests).unflatten(0, (edits, -1))  # [N, n, d_out]
        updates = {}
        for index, layer in enumerate(self.layers):
            mask = chosen[:, :, index]  # [N, n, d_in]
            if self.change.action == "erase":
                updates[layer] = self._erased(layer, mask.any(1), after).packed()
            else:
                updates[layer] = LowRank(mask.mT.to(additions), additions).packed()
        return WeightEdit(updates, self.name, self.language_model.fingerprint)

    @torch.no_grad()
    def neurons(self, requests: Sequence[Request]) -> Tensor:
        """Which neurons each request's old answer hangs on, ``[B, L, d_in]`` of true and false."""
        self.prepare()
        prompts, _ = placed(requests, self.templates)
        answers = [answer for answer in self._answers(requests) for _ in self.templates]
        values = attributions(
            self.language_model, prompts, answers, self.blocks, self.integral, self.rows_per_batch
        ).unflatten(0, (len(requests), -1))  # [B, m, L, d_in]
        coarse = values > self.threshold * values.amax((2, 3), keepdim=True)
        several = len(self.templates) > 1
        refined = coarse.double().mean(1) > self.share if several else coarse[:, 0]
        for request, mask in zip(requests, refined, strict=True):
            if not mask.any():
                logger.warning("%r: no neuron speaks for the old answer; no change", request.prompt)
        return refined

    def _additions(self, requests: Sequence[Request]) -> Tensor:
        """What the rows of each request's neurons grow by, ``[B, d_out]``."""
        model, change = self.language_model, self.change
        rows, new = self._embeddings(), []
        for ids in _target_ids(model, requests, [request.target for request in requests]):
            each = widened(rows[ids[:1] if change.multi_token == "first" else ids])
            new.append(each.mean(0) if change.multi_token == "mean" else each.sum(0))
        old = widened(rows[self._next_tokens(requests)])
        return change.new_weight * torch.stack(new) - change.old_weight * old

    def _erased(self, layer: str, erased: Tensor, after: WeightEdit | None) -> LowRank:
        """The update that leaves nothing of the rows ``erased``, ``[N, d_in]``."""
        weight = widened(self.language_model.weight(layer))
        if after is not None and layer in after.updates:
            weight = weight + after.updates[layer].dense()[0].to(weight)
        rank = int(erased.sum(1).max())
        picked = erased.double().topk(rank, dim=1).indices  # [N, r], of some edits too many
        factor = erased.gather(1, picked)[..., None].to(weight)  # [N, r, 1], 0 of those too many
        left = torch.nn.functional.one_hot(picked, len(weight)).to(weight).mT
        return LowRank(left, -factor * weight[picked])

    def _answers(self, requests: Sequence[Request]) -> list[list[int]]:
        """Token ids of each request's old answer."""
        given = [(r, r.target_true) for r in requests if r.target_true is not None]
        targets = [target for _, target in given]
        ids = iter(_target_ids(self.language_model, [request for request, _ in given], targets))
        open_ended = [request for request in requests if request.target_true is None]
        tokens = iter(self._next_tokens(open_ended).tolist() if open_ended else ())
        return [[next(tokens)] if r.target_true is None else next(ids) for r in requests]

    def _next_tokens(self, requests: Sequence[Request]) -> Tensor:
        """The likeliest token after each prompt, ``[B]``."""
        model = self.language_model
        with full_precision(model.device):
            batch = model.encode([request.prompt for request in requests], None)
            last = batch.attention_mask.sum(1) - 1
            rows = torch.arange(len(requests), device=last.device)
            return model.head(model.hidden(batch)[rows, last]).argmax(-1)


def _target_ids(
    language_model: LanguageModel, requests: Sequence[Request], targets: Sequence[str]
) -> list[list[int]]:
    """Token ids of the targets as they follow the requests' prompts."""
    if not requests:
        return []
    batch = language_model.encode([request.prompt for request in requests], targets)
    return [row[row != IGNORED].tolist() for row in batch.labels]
