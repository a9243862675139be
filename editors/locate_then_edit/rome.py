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
from collections.abc import Iterable, Sequence

from torch import Tensor

from datamodules.records import Request
from editors.editor import Group
from editors.locate_then_edit.closed_form import ClosedForm, default_blocks, warn_of_doubtful
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import rank_one
from editors.settings import one_of
from edits.weights import WeightEdit
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)

SEARCH, CONTEXTS = Search(), Contexts()
NAMES = {"official": "rome", "prefix_mean": "r_rome", "prompt": "r_rome_prompt"}
"""The editor's name in each key mode; ``_identity`` follows where no second moments are taken."""
RATIOS = (0.3, 3.0)
"""Ratios of bare to mean key, as the direction sees them, that need no warning."""


class Rome(ClosedForm):
    """Writes each fact as a rank-one update of one block's second feed-forward projection.

    Args:
        language_model: the model to edit.
        layer: the edited block; None: a third up.
        key_mode: ``official`` (direction from the mean key, constraint at the bare prompt's),
            ``prefix_mean`` or ``prompt`` (R-ROME: the mean key, or the bare prompt's, for both).
        search: how the value is searched for; by default the authors' for GPT-2 XL.
        contexts: what the prompt is put into; by default the authors' ten of 5 and ten of 10
            tokens.
        moments: the second moments of keys that shape the direction; None: they are taken to be the
            identity, and no corpus is needed.
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
        search: Search = SEARCH,
        contexts: Contexts = CONTEXTS,
        moments: Moments | None,
        rows_per_batch: int = 256,
    ):
        one_of("key_mode", key_mode, tuple(NAMES))
        self.name = NAMES[key_mode] + ("_identity" if moments is None else "")
        super().__init__(
            language_model,
            blocks=default_blocks(language_model.blocks) if layer is None else [layer],
            search=search,
            contexts=contexts,
            moments=moments,
            rows_per_batch=rows_per_batch,
        )
        (self.layer,) = self.layers
        self.key_mode = key_mode

    def turns(self, groups: Sequence[Group]) -> Iterable[Sequence[Group]]:
        """A group's requests one after another, each into the model that has the ones before."""
        return ([[request] for request in turn] for turn in zip(*groups, strict=True))

    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """The rank-one update of each group's one request."""
        model, layer = self.language_model, self.layer
        requests = [request for [request] in groups]
        warn_of_doubtful(model, requests)
        latent = optimise(
            model, requests, self.templates, [layer], self.search, self.rows_per_batch
        )
        bare, mean = latent.inputs[layer].unbind(1)  # [N, d_in]
        bare_output, mean_output = latent.outputs[layer].unbind(1)  # [N, d_out]
        source = bare if self.key_mode == "prompt" else mean
        key = mean if self.key_mode == "prefix_mean" else bare
        output = mean_output if self.key_mode == "prefix_mean" else bare_output
        direction = source
        if self.fitted:  # C^-1 k
            direction = self.fitted[layer].back(self.fitted[layer].into(source))
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
