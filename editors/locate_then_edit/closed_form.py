"""What all solved editors share: blocks, contexts, second moments and the search for a value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from datamodules.records import Request
from editors.editor import Editor
from editors.locate_then_edit.search.contexts import chosen_contexts, sample_contexts
from editors.locate_then_edit.search.latent import Optimisation
from editors.locate_then_edit.statistics.moments import (
    Corpus,
    Recipe,
    second_moments,
    warn_of_few_tokens,
)
from editors.locate_then_edit.statistics.solve import Coordinates, factor
from models.language_model import LanguageModel


class ClosedForm(Editor):
    """Writes facts into second feed-forward projections, by updates that have a closed form.

    Args:
        language_model: the model to edit.
        blocks: the edited blocks, from the lowest up. The last of all is of no use: what it says at
            the subject does not reach the tokens after it.
        corpus: the texts of which the second moments of keys are taken.
        steps: forward passes of the search for a value.
        lr: its step size.
        clamp: longest change of the value, in lengths of the value.
        kl_factor: weight of the divergence of what is said about the subject.
        weight_decay: weight of the change's length.
        stop_loss: the search for an edit ends when its loss (nats per token) falls below this.
        kl_stop: where all target tokens are the likeliest, the likelihood counts a tenth, and the
            search ends once the weighted divergence is at most this; None: no such rule.
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
    """

    covariance: bool = True
    """Whether second moments of keys shape the update; without, no corpus is needed."""

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        blocks: Sequence[int],
        context_lengths: Sequence[tuple[int, int]],
        corpus: Corpus | None = None,
        steps: int = 20,
        lr: float = 0.5,
        clamp: float = 4.0,
        kl_factor: float = 0.0625,
        weight_decay: float = 0.5,
        stop_loss: float = 0.05,
        kl_stop: float | None = None,
        contexts: str | Sequence[str] = "sampled",
        seed: int = 0,
        cache_folder: str | Path | None = None,
        moments: Recipe | None = None,
        rows_per_batch: int = 256,
    ):
        language_model.require_decoder_only(f"{self.name}, which edits a subject's last token,")
        blocks = list(blocks)
        if not blocks or blocks != sorted(set(blocks)):
            raise ValueError(f"layers: expected blocks from the lowest up, got {blocks}")
        self.layers = [language_model.layer("mlp_out", block) for block in blocks]
        if blocks[-1] == language_model.blocks - 1:
            raise ValueError(f"layers: {blocks[-1]} is the last block, which no later token reads")
        if self.covariance and corpus is None:
            raise ValueError(f"{self.name} takes a corpus, for second moments: give one")
        if rows_per_batch < 1:
            raise ValueError(f"rows_per_batch: expected at least 1, got {rows_per_batch}")
        self.language_model = language_model
        self.blocks = blocks
        self.corpus = corpus
        self.optimisation = Optimisation(
            steps, lr, clamp, kl_factor, weight_decay, stop_loss, kl_stop
        )
        self.contexts = contexts
        self._texts = () if contexts == "sampled" else chosen_contexts(contexts)
        self.context_lengths = [tuple(pair) for pair in context_lengths]
        self.seed = seed
        self.cache_folder = cache_folder
        self.moments = moments
        self.rows_per_batch = rows_per_batch
        self.fitted: dict[str, Coordinates] = {}

    def fit(self, moment: Tensor, layer: str) -> Coordinates:
        """The coordinates in which to solve, of a layer's second moment ``[d_in, d_in]``."""
        return factor(moment, layer)

    def prepare(self) -> None:
        """Samples the contexts and takes the second moments, once; `edit` does it if need be."""
        if not self._texts:
            self._texts = sample_contexts(self.language_model, self.context_lengths, self.seed)
        if not self.covariance or self.fitted:
            return
        found = second_moments(
            self.language_model, self.layers, self.corpus, self.moments, self.cache_folder
        )
        for layer in self.layers:
            warn_of_few_tokens(found[layer], layer)
            moment = found[layer].mean.to(self.language_model.device)
            self.fitted[layer] = self.fit(moment, layer)

    def _ready(self, requests: Sequence[Request]) -> None:
        """Prepares, on the clean model: before any edit is put in place."""
        if not requests:
            raise ValueError("there are no requests to edit for")
        self.prepare()
