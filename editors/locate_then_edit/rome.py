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
from pathlib import Path

from torch import Tensor

from datamodules.records import Request
from editors.editor import Editor
from editors.locate_then_edit.blocks import default_blocks
from editors.locate_then_edit.contexts import LENGTHS, chosen_contexts, sample_contexts
from editors.locate_then_edit.keys import subject_keys
from editors.locate_then_edit.latent import Optimisation, optimise
from editors.locate_then_edit.moments import Corpus, Recipe, second_moments
from editors.locate_then_edit.solve import Factor, factor, rank_one
from edits.weights import WeightEdit
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

KEY_MODES = ("official", "prefix_mean", "prompt")
RATIOS = (0.3, 3.0)
"""Ratios of bare to mean key, as the direction sees them, that need no warning."""


class Rome(Editor):
    """Writes each fact as a rank-one update of one block's second feed-forward projection.

    Args:
        language_model: the model to edit.
        layer: the edited block; None: as `default_blocks` says. The last one is of no use: what it
            says at the subject does not reach the tokens after it.
        key_mode: ``official`` (direction from the mean key, constraint at the bare prompt's),
            ``prefix_mean`` or ``prompt`` (R-ROME: the mean key, or the bare prompt's, for both).
        covariance: whether the second moments of keys shape the direction; without, they are taken
            to be the identity, and no corpus is needed.
        corpus: the texts of which the second moments are taken.
        steps: forward passes of the search for ``v*``.
        lr: its step size.
        clamp: longest change of the output, in lengths of the output.
        kl_factor: weight of the divergence of what is said about the subject.
        weight_decay: weight of the change's length.
        stop_loss: the search for an edit ends when its loss (nats per token) falls below this.
        contexts: ``sampled`` (texts of the model itself, as the authors do), ``fixed`` (the same
            list for every model), or a list of templates.
        context_lengths: how long and how many are sampled, as (tokens, texts) pairs. The bare
            prompt is one context more; the fewer the others, the more it counts.
        seed: of the sampled contexts.
        cache_folder: where second moments are kept; None: nowhere.
        moments: how second moments are taken of the corpus; None: as the authors do.
        rows_per_batch: bounds the memory taken; results do not depend on it.

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
        corpus: Corpus | None = None,
        steps: int = 20,
        lr: float = 0.5,
        clamp: float = 4.0,
        kl_factor: float = 0.0625,
        weight_decay: float = 0.5,
        stop_loss: float = 0.05,
        contexts: str | Sequence[str] = "sampled",
        context_lengths: Sequence[tuple[int, int]] = LENGTHS,
        seed: int = 0,
        cache_folder: str | Path | None = None,
        moments: Recipe | None = None,
        rows_per_batch: int = 256,
    ):
        language_model.require_decoder_only(f"{self.name}, which edits a subject's last token,")
        if key_mode not in KEY_MODES:
            raise ValueError(f"key_mode: expected one of {', '.join(KEY_MODES)}, got {key_mode!r}")
        if covariance and corpus is None:
            raise ValueError("covariance=True takes a corpus: give one, or covariance=False")
        if rows_per_batch < 1:
            raise ValueError(f"rows_per_batch: expected at least 1, got {rows_per_batch}")
        self.language_model = language_model
        if layer is None:
            (layer,) = default_blocks(language_model.blocks)
        if layer == language_model.blocks - 1:
            raise ValueError(f"layer: {layer} is the last block, which no later token reads")
        self.layer = language_model.layer("mlp_out", layer)
        self.key_mode = key_mode
        self.covariance = covariance
        self.corpus = corpus
        self.optimisation = Optimisation(steps, lr, clamp, kl_factor, weight_decay, stop_loss)
        self.contexts = contexts
        self._texts = () if contexts == "sampled" else chosen_contexts(contexts)
        self.context_lengths = [tuple(pair) for pair in context_lengths]
        self.seed = seed
        self.cache_folder = cache_folder
        self.moments = moments
        self.rows_per_batch = rows_per_batch
        self.factor: Factor | None = None

    def prepare(self) -> None:
        """Samples the contexts and factors the second moment, once; `edit` does it if need be."""
        if not self._texts:
            self._texts = sample_contexts(self.language_model, self.context_lengths, self.seed)
        if self.covariance and self.factor is None:
            found = second_moments(
                self.language_model, [self.layer], self.corpus, self.moments, self.cache_folder
            )
            moment = found[self.layer].mean.to(self.language_model.device)
            self.factor = factor(moment, self.layer)

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

    def _ready(self, requests: Sequence[Request]) -> None:
        """Prepares, on the clean model: before any edit is put in place."""
        if not requests:
            raise ValueError("there are no requests to edit for")
        self.prepare()

    def _updates(self, requests: Sequence[Request]) -> WeightEdit:
        """The rank-one updates of the model as it now is, with the hooks that are on it."""
        model, layer, contexts = self.language_model, self.layer, self._texts
        keys, outputs = subject_keys(model, requests, contexts, [layer], self.rows_per_batch)[layer]
        latent = optimise(
            model, requests, contexts, [layer], self.optimisation, self.rows_per_batch
        )
        mean, bare = keys.double().mean(1), keys[:, 0].double()  # [N, d_in]
        source = bare if self.key_mode == "prompt" else mean
        key = mean if self.key_mode == "prefix_mean" else bare
        output = outputs.double().mean(1) if self.key_mode == "prefix_mean" else outputs[:, 0]
        direction = source if self.factor is None else self.factor.solve(source)
        if self.key_mode == "official":
            warn_of_unlike_keys(requests, direction, mean, bare)
        update = rank_one(direction, key, latent.value(layer) - output)
        update = update.to(model.device, keys.dtype)
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
