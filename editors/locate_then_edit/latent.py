"""The value a layer should output so that the model states the request: ``v*``, by optimisation.

ROME (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), equation 4: a shift ``delta`` of
the output of a site (any layer, or several) at the subject's last token, such that the target
becomes likely after the prompt in every context, while what the model says at the subject in
"{subject} is a" stays. B edits are optimised at once. Their losses are summed and Adam works
element by element, so each edit's course is the one it would have alone.

Departures from the authors' code: an edit whose loss or gradient is not finite stops by itself and
is flagged; logits are computed only where they are needed; blocks below the site run once.
"""

# B edits, m contexts, N = B * (m + 1) rows, T tokens, d width of a site, V vocabulary

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from datamodules.records import Request
from editors.locate_then_edit.keys import placed
from editors.locate_then_edit.sites import (
    activations,
    full_precision,
    hidden_of,
    output_of,
    resumed,
    shifted,
)
from models.encoding import IGNORED, Batch
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


@dataclass(frozen=True)
class Rows:
    """The texts of B edits: for each its m contexts with the target, then the row for the KL.

    ``at`` is the subject's last token, ``[N]``; ``below`` what the last block before the sites says
    about the rows, ``[N, T, d]`` (in a tuple if the block answers so), None if there is none.
    """

    batch: Batch
    at: Tensor
    per_edit: int
    below: Tensor | tuple | None = None

    def of(self, edits: Tensor) -> Rows:
        """The rows of some of the edits."""
        index = (edits[:, None] * self.per_edit + torch.arange(self.per_edit).to(edits)).flatten()
        batch = self.batch
        parts = (batch.input_ids[index], batch.attention_mask[index], batch.labels[index])
        below = self.below
        if below is not None:
            hidden = hidden_of(below)[index]
            below = (hidden,) if isinstance(below, tuple) else hidden
        return Rows(Batch(*parts), self.at[index], self.per_edit, below)


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
    bounds memory: as many edits as fit are taken at a time, at least one.
    """
    size = max(1, rows_per_batch // (len(contexts) + 1))
    parts = []
    with full_precision(language_model.device), torch.enable_grad():
        for start in range(0, len(requests), size):
            rows, initial = _started(
                language_model, requests[start : start + size], contexts, sites
            )
            parts.append(_optimised(language_model, rows, initial, settings))
    latent = Latent(
        {site: torch.cat([part.initial[site] for part in parts]) for site in sites},
        {site: torch.cat([part.delta[site] for part in parts]) for site in sites},
        torch.cat([part.losses for part in parts]),
        torch.cat([part.finite for part in parts]),
    )
    for index in (~latent.finite).nonzero().flatten().tolist():
        logger.warning("%r: the loss or its gradient is not finite; stopped", requests[index])
    return latent


def _optimised(
    language_model: LanguageModel, rows: Rows, initial: dict[str, Tensor], settings: Optimisation
) -> Latent:
    shifts = {site: torch.zeros_like(value).requires_grad_() for site, value in initial.items()}
    lengths = {site: value.norm(dim=1) for site, value in initial.items()}
    adam = torch.optim.Adam(list(shifts.values()), lr=settings.lr)
    edits = len(rows.at) // rows.per_edit
    losses = torch.full((edits, settings.steps, 4), torch.nan, dtype=torch.float64)
    losses = losses.to(rows.at.device)
    finite = torch.ones(edits, dtype=torch.bool, device=rows.at.device)
    running = finite.clone()
    current = rows  # those of the running edits
    for step in range(settings.steps):
        index = running.nonzero().flatten()
        if len(index) * rows.per_edit < len(current.at):
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
    batch, per_edit = rows.batch, rows.per_edit
    tokens, first = batch.labels.shape[1], _first_block(language_model, tuple(delta))
    with ExitStack() as stack:
        stack.enter_context(resumed(language_model, first, rows.below))
        for site, shift in delta.items():
            each = shift.repeat_interleave(per_edit, dim=0)
            module = language_model.module(site)
            stack.enter_context(shifted(module, each, rows.at, tokens))
        hidden = language_model.hidden(batch)  # [N, T, d]
    row, position = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    last = torch.arange(per_edit - 1, len(batch.labels), per_edit, device=row.device)
    states = torch.cat([hidden[row, position], hidden[last, rows.at[last]]])
    log_p = language_model.head(states).log_softmax(-1)  # [n + b, V]
    targets = batch.labels[row, position + 1]
    nll = -log_p[: len(row)].gather(1, targets[:, None])[:, 0]
    counts = torch.bincount(row, minlength=len(batch.labels)).clamp(min=1)
    means = nll.new_zeros(len(batch.labels)).index_add(0, row, nll / counts[row])
    return means.view(-1, per_edit)[:, :-1].mean(1), log_p[len(row) :]


def _started(
    language_model: LanguageModel,
    requests: Sequence[Request],
    contexts: Sequence[str],
    sites: Sequence[str],
) -> tuple[Rows, dict[str, Tensor]]:
    """The edits' rows, and each site's output ``[B, d]`` at the subject of the bare prompt."""
    first = _first_block(language_model, sites)
    rows = _rows(language_model, requests, contexts)
    below = output_of(language_model, rows.batch, first - 1) if first else None
    bare = torch.arange(0, len(rows.at), rows.per_edit, device=rows.at.device)
    with resumed(language_model, first, below):
        seen = activations(language_model, rows.batch, sites, bare, rows.at[bare])
    return replace(rows, below=below), {site: seen[site][1] for site in sites}


def _first_block(language_model: LanguageModel, sites: Sequence[str]) -> int:
    """The lowest block that holds one of the sites."""
    for index in range(language_model.blocks):
        name = language_model.block(index)
        if any(site == name or site.startswith(f"{name}.") for site in sites):
            return index
    raise ValueError(f"sites {list(sites)} are in no block of the language model")


def _rows(
    language_model: LanguageModel, requests: Sequence[Request], contexts: Sequence[str]
) -> Rows:
    """Context rows hold prompt and target, the KL row the prompt "{subject} is a" alone."""
    prompts, spans = placed(requests, contexts)
    kept = [f"{request.subject} is a" for request in requests]
    told = language_model.encode(prompts, [r.target for r in requests for _ in contexts])
    asked = language_model.encode(kept, None)
    at = language_model.token_positions(prompts, spans)
    at_kept = language_model.token_positions(kept, [(0, len(r.subject)) for r in requests])

    def woven(one: Tensor, other: Tensor, fill: int) -> Tensor:
        width = max(one.shape[1], other.shape[1])
        one, other = (pad(x, (0, width - x.shape[1]), value=fill) for x in (one, other))
        one = one.unflatten(0, (len(requests), len(contexts)))
        return torch.cat([one, other[:, None]], dim=1).flatten(0, 1)

    batch = Batch(
        woven(told.input_ids, asked.input_ids, 0),  # any id would do: padding is masked
        woven(told.attention_mask, asked.attention_mask, 0),
        woven(told.labels, asked.labels, IGNORED),
    )
    return Rows(batch, woven(at[:, None], at_kept[:, None], 0).flatten(), len(contexts) + 1)
