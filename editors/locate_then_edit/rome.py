"""ROME and R-ROME: one fact, one rank-one change of one feed-forward projection.

ROME: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022,
https://arxiv.org/abs/2202.05262. R-ROME: Gupta et al., "Rebuilding ROME", Findings of EMNLP 2024,
https://arxiv.org/abs/2403.07175.

The projection's output at the subject's last token is to become ``v*``. The update is
``u (v* - o)^T / (u^T k)`` with ``u = C^-1 k``, equation 2. The authors' code takes ``u`` from the
mean key over contexts but ``k`` and ``o`` from the bare prompt; R-ROME takes one and the same key.

Departures from the authors' code: second moments get a ridge where needed and are factored in
float64; contexts come from a seed; subjects are found by character offsets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext

from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.blocks import default_blocks
from editors.locate_then_edit.closed_form import ClosedForm
from editors.locate_then_edit.doubts import warn_of_doubtful
from editors.locate_then_edit.search.contexts import LENGTHS
from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.statistics.solve import rank_one
from edits.weights import WeightEdit
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

NAMES = {"official": "rome", "prefix_mean": "r_rome", "prompt": "r_rome_prompt"}
"""The editor's name in each key mode; ``_identity`` follows where no second moments are taken."""
RATIOS = (0.3, 3.0)
"""Ratios of bare to mean key, as the direction sees them, that need no warning."""


class Rome(ClosedForm):
    """Writes each fact as a rank-one update of one block's second feed-forward projection.

    Args:
        language_model: the model to edit.
        layer: the edited block; None: as `default_blocks` says.
        key_mode: ``official`` (direction from the mean key, constraint at the bare prompt's),
            ``prefix_mean`` or ``prompt`` (R-ROME: the mean key, or the bare prompt's, for both).
        covariance: whether second moments of keys shape the direction; without, they are taken to
            be the identity, and no corpus is needed.
        shared: what else `ClosedForm` takes; the defaults are the authors' for GPT-2 XL.

    Raises:
        ValueError: an argument is not one of the above.
        UnsupportedModel: the model is an encoder-decoder.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layer: int | None = None,
        key_mode: str = "official",
        covariance: bool = True,
        context_lengths: Sequence[tuple[int, int]] = LENGTHS,
        **shared,
    ):
        if key_mode not in NAMES:
            raise ValueError(f"key_mode: expected one of {', '.join(NAMES)}, got {key_mode!r}")
        self.name = NAMES[key_mode] + ("" if covariance else "_identity")
        self.covariance = covariance
        blocks = default_blocks(language_model.blocks) if layer is None else [layer]
        super().__init__(language_model, blocks=blocks, context_lengths=context_lengths, **shared)
        (self.layer,) = self.layers
        self.key_mode = key_mode

    def edit(self, requests: Sequence[Request], after: WeightEdit | None = None) -> WeightEdit:
        """One edit for all requests: each is written into the model that has the ones before.

        Raises:
            ValueError: there is no request.
        """
        self._ready(requests)
        for request in requests:
            with nullcontext() if after is None else after.hooks(self.language_model):
                update = self._updates([request])
            after = update if after is None else after.plus(update)
        return after

    def edit_each(self, requests: Sequence[Request]) -> WeightEdit:
        """N independent rank-one edits of the clean model.

        Raises:
            ValueError: there is no request.
        """
        self._ready(requests)
        return self._updates(requests)

    def _updates(self, requests: Sequence[Request]) -> WeightEdit:
        """The rank-one updates of the model as it now is, with the hooks that are on it."""
        model, layer, contexts = self.language_model, self.layer, self._texts
        warn_of_doubtful(model, requests)
        latent = optimise(
            model, requests, contexts, [layer], self.optimisation, self.rows_per_batch
        )
        bare, mean = latent.inputs[layer].unbind(1)  # [N, d_in]
        bare_output, mean_output = latent.outputs[layer].unbind(1)  # [N, d_out]
        source = bare if self.key_mode == "prompt" else mean
        key = mean if self.key_mode == "prefix_mean" else bare
        output = mean_output if self.key_mode == "prefix_mean" else bare_output
        direction = self.fitted[layer].solve(source) if self.fitted else source
        if self.key_mode == "official":
            warn_of_unlike_keys(requests, direction, mean, bare)
        update = rank_one(direction, key, latent.value(layer) - output)
        update = update.to(model.device, latent.delta[layer].dtype)
        return WeightEdit({layer: update}, self.name, model.fingerprint)


def warn_of_unlike_keys(
    requests: Sequence[Request], direction: Tensor, mean: Tensor, bare: Tensor
) -> None:
    """Warns of edits whose bare key does not answer the direction as the mean key does.

    Their updates are very large, or point the other way: the edits that disable a model (Gupta et
    al. 2024). The ratio of the two is 1 where all contexts give the same key.
    """
    ratios = (direction * bare).sum(1) / (direction * mean).sum(1)
    for request, ratio in zip(requests, ratios.tolist(), strict=True):
        if not RATIOS[0] <= ratio <= RATIOS[1]:
            logger.warning(
                "%r: bare to mean key %.3g; the edit may break the model", request, ratio
            )
