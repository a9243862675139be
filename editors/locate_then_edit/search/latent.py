"""The value a layer should output so that the model states the request: ``v*``, by optimisation.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 4: a shift ``delta`` of
the output of a site (any layer, or several) at the subject's last token, such that the target
becomes likely after the prompt in every context, while what the model says at the subject in
"{subject} is a" stays. B edits are optimised at once. Their losses are summed and Adam works
element by element, so each edit's course is the one it would have alone.

Several requests may share a shift, as those of one subject do in MEMIT-Merge (Dong et al., 2025,
https://arxiv.org/abs/2502.07322).

Departures from the authors' code: an edit whose loss or gradient is not finite stops by itself and
is flagged; only tokens from the subject on and blocks from the site on are run at each step.
"""

# B edits, G shifts (B unless some are shared), m contexts, N = B * (m + 1) rows, S tokens from the
# subject on, n target tokens of all rows, d width of a site, V vocabulary

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.search.shifts import Shifts
from editors.locate_then_edit.search.texts import Rows, started
from models.encoding import IGNORED
from models.language_model import LanguageModel
from models.sites import full_precision, place_of, shifted

logger = logging.getLogger(__name__)

CACHED_ROWS = 64  # more do not fit a processor core's cache, and take a fifth longer each

SETTLED = 0.1
"""PMET's weight of the likelihood where all target tokens are the likeliest."""


@dataclass(frozen=True)
class Optimisation:
    """How ``delta`` is found; the defaults are ROME's for GPT-2 XL.

    Args:
        steps: forward passes at most; the last one is followed by no update.
        lr: of Adam.
        clamp: longest ``delta``, in lengths of the value it is added to.
        kl_factor: weight of the divergence from the unedited model.
        weight_decay: weight of ``|delta| / |value|^2``.
        stop: an edit stops when its loss falls below this.
        kl_stop: the rule of PMET's code (Li et al., AAAI 2024, https://arxiv.org/abs/2308.08742):
            where all target tokens are the likeliest in all contexts, the likelihood counts
            `SETTLED` from the next pass on, and the edit stops if the divergence, with its factor,
            is at most this. None: no such rule.
    """

    steps: int = 20
    lr: float = 0.5
    clamp: float = 4.0
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    stop: float = 0.05
    kl_stop: float | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        for name in ("lr", "clamp"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("kl_factor", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Latent:
    """What the optimisation of B edits found.

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
    settings: Optimisation,
    rows_per_batch: int = 256,
    shared: Sequence[int] | None = None,
) -> Latent:
    """Finds each request's ``delta`` at the sites, given by module name; B independent edits.

    Hooks that are on the model (an edit made before) count as part of it. ``rows_per_batch`` only
    bounds memory: as many edits as fit, at least one, are taken at a time, like lengths together.

    Requests with the same number in ``shared`` have one ``delta``, found for the sum of their
    losses; it is clamped by the mean length of their values, and done when the mean loss is low.
    """
    owners = range(len(requests)) if shared is None else shared
    if language_model.device.type == "cpu":
        rows_per_batch = min(rows_per_batch, CACHED_ROWS)
    batches = _batches(requests, owners, max(1, rows_per_batch // (len(contexts) + 1)))
    parts = []
    with full_precision(language_model.device), torch.enable_grad():
        places = _places(language_model, requests, sites)
        for batch in batches:
            some = [requests[i] for i in batch]
            rows, seen = started(language_model, some, contexts, sites, list(places.values()))
            _, owner = torch.tensor([owners[i] for i in batch]).unique(return_inverse=True)
            owner = owner.to(language_model.device)
            initial = {site: output[:, 0] for site, (_, output) in seen.items()}
            found = _optimised(language_model, rows, initial, settings, owner, places)
            inputs, outputs = (
                {site: _bare_and_mean(pair[i]) for site, pair in seen.items()} for i in (0, 1)
            )
            parts.append(Latent(inputs, outputs, *found))
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
    """One of the edits of all parts, in another order."""

    def together(values: list) -> dict[str, Tensor] | Tensor:
        if isinstance(values[0], dict):
            return {site: together([value[site] for value in values]) for site in values[0]}
        return torch.cat(values)[order]

    return Latent(*(together([getattr(p, field.name) for p in parts]) for field in fields(Latent)))


def _places(
    language_model: LanguageModel, requests: Sequence[Request], sites: Sequence[str]
) -> dict[str, str]:
    """Each site's module to shift; of several, a later one may see what an earlier one says."""
    if len(sites) > 1:
        return {site: site for site in sites}
    batch = language_model.encode([requests[0].prompt], None)
    return {site: place_of(language_model, site, batch) for site in sites}


def _batches(requests: Sequence[Request], owners: Sequence[int], size: int) -> list[list[int]]:
    """Indices of requests in batches of at most ``size``, or of one owner's if those are more."""
    members: dict[int, list[int]] = {}
    for index, owner in enumerate(owners):
        members.setdefault(owner, []).append(index)
    batches: list[list[int]] = [[]]
    for group in sorted(members.values(), key=lambda g: max(_ending(requests[i]) for i in g)):
        if batches[-1] and len(batches[-1]) + len(group) > size:
            batches.append([])
        batches[-1] += group
    return batches


def _ending(request: Request) -> int:
    """Characters after the subject, target included: edits alike in it need little padding."""
    return len(request.prompt) - request.span[1] + len(request.target)


def _optimised(
    language_model: LanguageModel,
    rows: Rows,
    initial: dict[str, Tensor],
    settings: Optimisation,
    owner: Tensor,
    places: dict[str, str],
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """`Latent.delta`, its losses and which are finite.

    Edit i has shift ``owner[i]``, ``[B]``, added at its site's place.
    """
    shifts = Shifts(initial, owner, settings.lr, settings.clamp)
    device, edits = owner.device, len(owner)
    losses = torch.full((edits, settings.steps, 4), torch.nan, dtype=torch.float64, device=device)
    finite = torch.ones(edits, dtype=torch.bool, device=device)
    factors = torch.ones(edits, device=device)  # of the likelihood
    running = torch.ones(shifts.count, dtype=torch.bool, device=device)  # [G]
    current = rows  # those of the running edits
    for step in range(settings.steps):
        index = running[owner].nonzero().flatten()
        if len(index) * rows.per_edit < len(current.targets):
            current = rows.of(index)
        delta = shifts.of(index)
        at_places = {places[site]: shift for site, shift in delta.items()}
        nll, log_p, told = _said(language_model, current, at_places)
        if step == 0:
            reference = log_p.detach()
        kl = settings.kl_factor * (log_p.exp() * (log_p - reference[index])).sum(1)
        decay = settings.weight_decay * shifts.decay(delta, index)
        terms = torch.stack([factors[index] * nll, kl, decay], dim=1)
        total = terms.sum(1)  # [b]
        losses[index, step] = torch.cat([total[:, None], terms], dim=1).detach().double()
        finite[index] = total.isfinite()
        mean = shifts.means(total.detach(), index)
        running &= mean.isfinite() & (mean >= settings.stop)
        if settings.kl_stop is not None:
            settled = _settled(told, current)
            factors[index] = torch.where(settled, SETTLED, 1.0)
            moving = ~(settled & (kl <= settings.kl_stop))
            running &= shifts.means(moving.float(), index) > 0
        if step + 1 == settings.steps or not running.any():
            break
        gradients = shifts.gradients(total[running[owner[index]]].sum())
        sound = torch.stack([gradient.isfinite().all(1) for gradient in gradients]).all(0)
        finite &= sound[owner]
        running &= sound
        shifts.advance(gradients, running)
    every = torch.arange(edits, device=device)
    found = {site: shift.detach() for site, shift in shifts.of(every).items()}
    return found, losses, finite


def _said(
    language_model: LanguageModel, rows: Rows, delta: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """With modules shifted by ``[b, d]``: the target's NLL and the log-probabilities to keep.

    Returns:
        Mean over contexts of the mean over target tokens, nats ``[b]``; the distribution of the
        next token at the subject's last token of the KL row, ``[b, V]``; and those at which the
        target tokens were read, ``[n, V]``.
    """
    targets, per_edit = rows.targets, rows.per_edit
    with ExitStack() as stack:
        for name, shift in delta.items():
            each = shift.repeat_interleave(per_edit, dim=0)
            stack.enter_context(shifted(language_model.module(name), each, *targets.shape))
        hidden = rows.suffixes.hidden(language_model, rows.read)  # [N, S, d]
    row, place = (targets != IGNORED).nonzero(as_tuple=True)
    states = torch.cat([hidden[row, place], hidden[per_edit - 1 :: per_edit, 0]])
    log_p = language_model.head(states).log_softmax(-1)  # [n + b, V]
    nll = -log_p[: len(row)].gather(1, targets[row, place][:, None])[:, 0]
    counts = torch.bincount(row, minlength=len(targets))
    means = nll.new_zeros(len(targets)).index_add(0, row, nll / counts[row])
    return means.view(-1, per_edit)[:, :-1].mean(1), log_p[len(row) :], log_p[: len(row)]


def _settled(told: Tensor, rows: Rows) -> Tensor:
    """Whether all target tokens are the likeliest in all contexts, ``[b]``."""
    row, place = (rows.targets != IGNORED).nonzero(as_tuple=True)
    wrong = row[told.argmax(-1) != rows.targets[row, place]] // rows.per_edit
    return torch.bincount(wrong, minlength=len(rows.targets) // rows.per_edit) == 0
