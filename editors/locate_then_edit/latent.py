"""The value a layer should output so that the model states the request: ``v*``, by optimisation.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 4: a shift ``delta`` of
the output of a site (any layer, or several) at the subject's last token, such that the target
becomes likely after the prompt in every context, while what the model says at the subject in
"{subject} is a" stays. B edits are optimised at once. Their losses are summed and Adam works
element by element, so each edit's course is the one it would have alone.

Departures from the authors' code: an edit whose loss or gradient is not finite stops by itself and
is flagged; only tokens from the subject on and blocks from the site on are run at each step.
"""

# B edits, m contexts, N = B * (m + 1) rows, S tokens from the subject on, d width of a
# site, V vocabulary

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.rows import Rows, started
from editors.locate_then_edit.sites import full_precision, shifted
from models.encoding import IGNORED
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)


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
    """

    steps: int = 20
    lr: float = 0.5
    clamp: float = 4.0
    kl_factor: float = 0.0625
    weight_decay: float = 0.5
    stop: float = 0.05

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
        initial: each site's output at the subject's last token of the bare prompt, ``[B, d]``.
        delta: each site's shift, ``[B, d]``.
        losses: ``[B, steps, 4]``: total, likelihood, divergence and decay with their factors, of
            each pass; NaN after the edit's last one.
        finite: ``[B]``, false for an edit that met a loss or gradient that is not finite and kept
            the shift it had then.
    """

    initial: dict[str, Tensor]
    delta: dict[str, Tensor]
    losses: Tensor
    finite: Tensor

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
) -> Latent:
    """Finds each request's ``delta`` at the sites, given by module name; B independent edits.

    Hooks that are on the model (an edit made before) count as part of it. ``rows_per_batch`` only
    bounds memory: as many edits as fit, at least one, are taken at a time, like lengths together.
    """
    size = max(1, rows_per_batch // (len(contexts) + 1))
    order = sorted(range(len(requests)), key=lambda i: _ending(requests[i]))
    parts = []
    with full_precision(language_model.device), torch.enable_grad():
        for start in range(0, len(order), size):
            some = [requests[i] for i in order[start : start + size]]
            rows, initial = started(language_model, some, contexts, sites)
            parts.append(_optimised(language_model, rows, initial, settings))
    back = torch.tensor(order).argsort().to(language_model.device)
    latent = Latent(
        {site: torch.cat([part.initial[site] for part in parts])[back] for site in sites},
        {site: torch.cat([part.delta[site] for part in parts])[back] for site in sites},
        torch.cat([part.losses for part in parts])[back],
        torch.cat([part.finite for part in parts])[back],
    )
    for index in (~latent.finite).nonzero().flatten().tolist():
        logger.warning("%r: the loss or its gradient is not finite; stopped", requests[index])
    return latent


def _ending(request: Request) -> int:
    """Characters after the subject, target included: edits alike in it need little padding."""
    return len(request.prompt) - request.span[1] + len(request.target)


def _optimised(
    language_model: LanguageModel, rows: Rows, initial: dict[str, Tensor], settings: Optimisation
) -> Latent:
    shifts = {site: torch.zeros_like(value).requires_grad_() for site, value in initial.items()}
    lengths = {site: value.norm(dim=1) for site, value in initial.items()}
    adam = torch.optim.Adam(list(shifts.values()), lr=settings.lr)
    device, edits = rows.targets.device, len(rows.targets) // rows.per_edit
    losses = torch.full((edits, settings.steps, 4), torch.nan, dtype=torch.float64, device=device)
    finite = torch.ones(edits, dtype=torch.bool, device=device)
    running = finite.clone()
    current = rows  # those of the running edits
    for step in range(settings.steps):
        index = running.nonzero().flatten()
        if len(index) * rows.per_edit < len(current.targets):
            current = rows.of(index)
        delta = {site: shift[index] for site, shift in shifts.items()}
        nll, log_p = _said(language_model, current, delta)
        if step == 0:
            reference = log_p.detach()
        kl = (log_p.exp() * (log_p - reference[index])).sum(1)
        decay = sum(d.norm(dim=1) / lengths[site][index] ** 2 for site, d in delta.items())
        terms = torch.stack([nll, settings.kl_factor * kl, settings.weight_decay * decay], dim=1)
        total = terms.sum(1)  # [b]
        losses[index, step] = torch.cat([total[:, None], terms], dim=1).detach().double()
        finite[index] = total.isfinite()
        running[index] = finite[index] & (total >= settings.stop)
        if step + 1 == settings.steps or not running.any():
            break
        gradients = torch.autograd.grad(total[running[index]].sum(), list(shifts.values()))
        sound = torch.stack([gradient.isfinite().all(1) for gradient in gradients]).all(0)
        finite &= sound
        running &= sound
        _advance(adam, shifts, gradients, running)
        _clamp(shifts, {site: settings.clamp * length for site, length in lengths.items()})
    return Latent(initial, {s: shift.detach() for s, shift in shifts.items()}, losses, finite)


@torch.no_grad()
def _advance(
    adam: torch.optim.Adam,
    shifts: dict[str, Tensor],
    gradients: Sequence[Tensor],
    running: Tensor,
) -> None:
    """One step of Adam, of the ``running`` edits alone; all of them have taken as many before."""
    before = [shift.clone() for shift in shifts.values()]
    for shift, gradient in zip(shifts.values(), gradients, strict=True):
        shift.grad = torch.where(running[:, None], gradient, 0.0)
    adam.step()
    for shift, old in zip(shifts.values(), before, strict=True):
        shift.copy_(torch.where(running[:, None], shift, old))


@torch.no_grad()
def _clamp(shifts: dict[str, Tensor], longest: dict[str, Tensor]) -> None:
    """Scales shifts that are longer than ``longest``, ``[B]``, back to that length."""
    for site, shift in shifts.items():
        length = shift.norm(dim=1)
        factor = torch.where(length > longest[site], longest[site] / length, 1.0)
        shift.mul_(factor[:, None])


def _said(
    language_model: LanguageModel, rows: Rows, delta: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Of the model with shifts ``[b, d]``: the target's NLL and the log-probabilities to keep.

    Returns:
        Mean over contexts of the mean over target tokens, nats ``[b]``; and the distribution of the
        next token at the subject's last token of the KL row, ``[b, V]``.
    """
    targets, per_edit = rows.targets, rows.per_edit
    with ExitStack() as stack:
        for site, shift in delta.items():
            each = shift.repeat_interleave(per_edit, dim=0)
            stack.enter_context(shifted(language_model.module(site), each, *targets.shape))
        hidden = rows.suffixes.hidden(language_model)  # [N, S, d]
    row, place = (targets != IGNORED).nonzero(as_tuple=True)
    states = torch.cat([hidden[row, place], hidden[per_edit - 1 :: per_edit, 0]])
    log_p = language_model.head(states).log_softmax(-1)  # [n + b, V]
    nll = -log_p[: len(row)].gather(1, targets[row, place][:, None])[:, 0]
    counts = torch.bincount(row, minlength=len(targets))
    means = nll.new_zeros(len(targets)).index_add(0, row, nll / counts[row])
    return means.view(-1, per_edit)[:, :-1].mean(1), log_p[len(row) :]
