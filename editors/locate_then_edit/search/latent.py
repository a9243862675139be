"""The value a layer should output so that the model states the request: ``v*``, by optimisation.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 4: a shift ``delta`` of
the output of a site (any layer, or several) at the subject's last token, such that the target
becomes likely after the prompt in every context, while what the model says at the subject in
"{subject} is a" stays. B edits are optimised at once, each with the course it would have alone.

Several requests may share a shift, as those of one subject do in MEMIT-Merge (Dong et al., 2025,
https://arxiv.org/abs/2502.07322).

Departures from the authors' code: an edit whose loss or gradient is not finite stops by itself and
is flagged; only tokens from the subject on and blocks from the site on are run at each step.
"""

# B edits, m contexts, d width of a site

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.search.course import Course
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.search.texts import first_pass
from models.encoding import A_PASS, micro_batches
from models.hooks import full_precision
from models.language_model import LanguageModel
from models.sites import place_of
from watching import watched

logger = logging.getLogger(__name__)

SEARCHED = 128
"""Tokens of suffixes at once: on a processor more are no faster, and keep more memory."""


@dataclass(frozen=True)
class Latent:
    """The result of the search for B edits.

    Attributes:
        inputs: each site's input at the subject's last token of the bare prompt, and its mean over
            all contexts, ``[B, 2, d_in]``, float64.
        outputs: the same of its output, ``[B, 2, d]``.
        delta: each site's shift, ``[B, d]``.
        losses: ``[B, steps, 4]``: total, likelihood, divergence and decay with their factors, of
            each pass; NaN after the edit's last one.
        finite: ``[B]``, false for an edit that met a loss or gradient that is not finite and kept
            the shift it had then.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    delta: dict[str, Tensor]
    losses: Tensor
    finite: Tensor

    @property
    def initial(self) -> dict[str, Tensor]:
        """Each site's output that is shifted, of the bare prompt, ``[B, d]``."""
        return {site: x[:, 0].to(self.delta[site].dtype) for site, x in self.outputs.items()}

    def value(self, site: str) -> Tensor:
        """``v*`` of the site, ``[B, d]``."""
        return self.initial[site] + self.delta[site]


def optimise(
    language_model: LanguageModel,
    requests: Sequence[Request],
    contexts: Sequence[str],
    sites: Sequence[str],
    search: Search,
    rows_per_batch: int = 256,
    shared: Sequence[int] | None = None,
) -> Latent:
    """Finds each request's ``delta`` at the sites, given by module name; B independent edits.

    Hooks that are on the model (an edit made before) count as part of it. ``rows_per_batch`` only
    bounds memory: as many edits as fit, at least one, are taken at a time, like lengths together.

    Requests with the same number in ``shared`` have one ``delta``, which descends on the sum of
    their losses; it is clamped by the mean length of their values, and ends by their mean loss.
    """
    owners = range(len(requests)) if shared is None else shared
    batches = _batches(language_model, requests, owners, len(contexts), rows_per_batch)
    parts = []
    with full_precision(language_model.device), torch.enable_grad():
        places = _places(language_model, requests, sites)
        for batch in watched(batches, "values", "requests", len):
            part = [requests[i] for i in batch]
            rows, pairs = first_pass(language_model, part, contexts, sites, list(places.values()))
            _, owner = torch.tensor([owners[i] for i in batch]).unique(return_inverse=True)
            owner = owner.to(language_model.device)
            initial = {site: output[:, 0] for site, (_, output) in pairs.items()}
            course = Course(language_model, rows, initial, places, owner, search)
            inputs, outputs = (
                {site: _bare_and_mean(pair[i]) for site, pair in pairs.items()} for i in (0, 1)
            )
            parts.append(Latent(inputs, outputs, *course.run()))
    back = torch.tensor([i for batch in batches for i in batch]).argsort().to(language_model.device)
    latent = _joined(parts, back)
    for index in (~latent.finite).nonzero().flatten().tolist():
        logger.warning("%r: the loss or its gradient is not finite; stopped", requests[index])
    return latent


def _bare_and_mean(contexts: Tensor) -> Tensor:
    """The first of ``[B, m, d]`` and their mean, ``[B, 2, d]``."""
    contexts = contexts.double()
    return torch.stack([contexts[:, 0], contexts.mean(1)], dim=1)


def _joined(parts: Sequence[Latent], order: Tensor) -> Latent:
    """The edits of all parts, in another order."""

    def by_site(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {site: torch.cat([value[site] for value in values])[order] for site in values[0]}

    return Latent(
        by_site([part.inputs for part in parts]),
        by_site([part.outputs for part in parts]),
        by_site([part.delta for part in parts]),
        torch.cat([part.losses for part in parts])[order],
        torch.cat([part.finite for part in parts])[order],
    )


def _places(
    language_model: LanguageModel, requests: Sequence[Request], sites: Sequence[str]
) -> dict[str, str]:
    """Each site's module to shift; of several, one may read the output of an earlier one."""
    if len(sites) > 1:
        return {site: site for site in sites}
    batch = language_model.encode([requests[0].prompt], None)
    return {site: place_of(language_model, site, batch) for site in sites}


def _batches(
    language_model: LanguageModel,
    requests: Sequence[Request],
    owners: Sequence[int],
    contexts: int,
    rows_per_batch: int,
) -> list[list[int]]:
    """Indices of requests in batches, those of one owner together, like lengths together."""
    sizes = [contexts * tokens + 1 for tokens in _suffix_tokens(language_model, requests)]
    members: dict[int, list[int]] = {}
    for index, owner in enumerate(owners):
        members.setdefault(owner, []).append(index)
    groups = list(members.values())
    lengths = [len(group) * max(sizes[i] for i in group) for group in groups]
    most = max(sizes) * max(1, rows_per_batch // (contexts + 1))
    batches = (
        micro_batches(lengths, min(most, SEARCHED), A_PASS)
        if language_model.device.type == "cpu"
        else micro_batches(lengths, most)
    )
    return [[i for number in batch for i in groups[number]] for batch in batches]


def _suffix_tokens(language_model: LanguageModel, requests: Sequence[Request]) -> list[int]:
    """How many tokens of each prompt and target are run at each step, in one context."""
    prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
    lengths = language_model.lengths(prompts, targets)
    places = language_model.token_positions(prompts, [r.span for r in requests]).tolist()
    return [length - 1 - place for length, place in zip(lengths, places, strict=True)]
