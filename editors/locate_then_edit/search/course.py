"""The course of a search: losses of shifted texts, and the shifts that descend on them."""

# B edits, b of them, G shifts (B unless some are shared), g of them, N rows, S tokens from the
# subject on, n target tokens of all rows, d width of a site, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from editors.descent import Descent, means
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.search.texts import Rows
from models.encoding import IGNORED
from models.language_model import LanguageModel
from models.sites import shifted

SETTLED = 0.1
"""PMET's weight of the likelihood where all target tokens are the likeliest."""


class Course:
    """B edits on their way: edit i has shift ``owner[i]`` at each site, zero at first.

    Args:
        language_model: who reads the texts.
        rows: the edits' texts.
        initial: each site's value without a shift, ``[B, d]``.
        places: each site's module to shift.
        owner: ``[B]`` in ``[0, G)``.
        search: how.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        rows: Rows,
        initial: dict[str, Tensor],
        places: dict[str, str],
        owner: Tensor,
        search: Search,
    ):
        self.language_model, self.search = language_model, search
        self.rows = self.current = rows  # the latter: those of the active edits
        self.places, self.owner = places, owner
        edits, count, device = len(owner), int(owner.max()) + 1, owner.device
        self.lengths = {site: value.norm(dim=1) for site, value in initial.items()}
        self.longest = [search.clamp * means(n, owner, count) for n in self.lengths.values()]
        self.shifts = [
            [value.new_zeros(value.shape[1]).requires_grad_() for value in initial.values()]
            for _ in range(count)
        ]
        terms = (edits, search.steps, 4)
        self.losses = torch.full(terms, torch.nan, dtype=torch.float64, device=device)
        self.finite = torch.ones(edits, dtype=torch.bool, device=device)
        self.factors = torch.ones(edits, device=device)  # of the likelihood
        self.reference: Tensor | None = None  # log-probabilities without shifts, [B, V]
        self.step = 0

    def run(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Each site's shift of each edit ``[B, d]``, the losses, and which edits are finite."""
        search = self.search
        descent = Descent(self.shifts, steps=search.steps, lr=search.lr, last=False)
        descent.run(self._losses, self._done, project=self._clamp)
        for number in descent.unsound:
            self.finite &= self.owner != number
        every = range(len(self.shifts))
        delta = {
            site: self._stacked(at, every).detach()[self.owner]
            for at, site in enumerate(self.lengths)
        }
        return delta, self.losses, self.finite

    def _losses(self, active: list[int]) -> Tensor:
        """Summed loss ``[g]`` of the edits of each active shift."""
        self._go_on(active)
        delta = {s: self._stacked(at, active)[self.place] for at, s in enumerate(self.lengths)}
        shifts = {self.places[site]: shift for site, shift in delta.items()}
        nll, log_p, self.target_log_p = answers(self.language_model, self.current, shifts)
        if self.reference is None:
            self.reference = log_p.detach()
        index, search = self.index, self.search
        self.kl = search.kl_factor * (log_p.exp() * (log_p - self.reference[index])).sum(1)
        decay = sum(d.norm(dim=1) / self.lengths[s][index] ** 2 for s, d in delta.items())
        terms = [self.factors[index] * nll, self.kl, search.weight_decay * decay]
        total = torch.stack(terms, dim=1).sum(1)  # [b]
        self.losses[index, self.step] = torch.stack([total, *terms], dim=1).detach().double()
        self.finite[index] = total.isfinite()
        self.step += 1
        return total.new_zeros(len(active)).index_add(0, self.place, total)

    def _go_on(self, active: list[int]) -> None:
        """The ``index`` of the active shifts' edits ``[b]``, and the ``place`` of each one's."""
        numbers = torch.tensor(active, device=self.owner.device)
        self.index = torch.isin(self.owner, numbers).nonzero().flatten()
        self.place = torch.searchsorted(numbers, self.owner[self.index])
        if len(self.index) < len(self.current.targets):
            self.current = self.rows.of(self.index)

    def _done(self, active: list[int], sums: Tensor) -> Tensor:
        """Which shifts' mean loss is low, or not finite, or which PMET's rule ends."""
        mean = sums / torch.bincount(self.place, minlength=len(active))
        going = mean.isfinite() & (mean >= self.search.stop_loss)
        if self.search.kl_stop is not None:
            settled = _settled(self.target_log_p, self.current)
            self.factors[self.index] = torch.where(settled, SETTLED, 1.0)
            moving = ~(settled & (self.kl.detach() <= self.search.kl_stop))
            going &= means(moving.float(), self.place, len(active)) > 0
        return ~going

    def _clamp(self, active: list[int]) -> None:
        """Shortens shifts that are too long."""
        for at, longest in enumerate(self.longest):
            shifts, most = self._stacked(at, active), longest[active]
            length = shifts.norm(dim=1)
            factor = torch.where(length > most, most / length, 1.0)
            for number, shift in zip(active, shifts * factor[:, None], strict=True):
                self.shifts[number][at].copy_(shift)

    def _stacked(self, at: int, numbers: Sequence[int]) -> Tensor:
        """A site's shifts of these numbers, ``[g, d]``; differentiable."""
        return torch.stack([self.shifts[number][at] for number in numbers])


def answers(
    language_model: LanguageModel, rows: Rows, delta: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """With modules shifted by ``[b, d]``: the target's NLL, and log-probabilities.

    Returns:
        Mean over contexts of the mean over target tokens, nats ``[b]``; the distribution of the
        next token at the subject's last token of the KL row, ``[b, V]``; and those at which the
        target tokens were read, ``[n, V]``.
    """
    targets, text, starts = rows.targets, rows.suffixes.text, rows.starts
    edits, per_edit = starts.shape
    every = torch.arange(edits, device=starts.device)
    with ExitStack() as stack:
        for name, shift in delta.items():
            each, place = shift.repeat_interleave(per_edit, dim=0), starts.flatten()
            row = every.repeat_interleave(per_edit)
            module = language_model.module(name)
            stack.enter_context(shifted(module, each, row, place, edits))
        hidden = rows.suffixes.hidden(language_model, rows.read)  # [b, S, d]
    row, place = (targets != IGNORED).nonzero(as_tuple=True)
    states = torch.cat([hidden[row, place], hidden[every, starts[:, -1]]])
    log_p = language_model.head(states).log_softmax(-1)  # [n + b, V]
    nll = -log_p[: len(row)].gather(1, targets[row, place][:, None])[:, 0]
    contexts = per_edit - 1
    of_text = means(nll, row * contexts + text[row, place], edits * contexts)
    return of_text.view(edits, contexts).mean(1), log_p[len(row) :], log_p[: len(row)]


def _settled(log_p: Tensor, rows: Rows) -> Tensor:
    """Whether all target tokens are the likeliest in all contexts, ``[b]``."""
    row, place = (rows.targets != IGNORED).nonzero(as_tuple=True)
    wrong = row[log_p.argmax(-1) != rows.targets[row, place]]
    return torch.bincount(wrong, minlength=len(rows.targets)) == 0
