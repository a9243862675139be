"""UltraEdit and StableEdit: MALMEN's least squares without its network, for streams of edits.

Gu et al., "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Large Language
Models", 2025, https://arxiv.org/abs/2505.14679, section 3. Each row, one for each token of a
target, has the key k of a layer and the gradient g at its output. With both standardised by the
statistics of all rows seen so far, k^ and g^, row i proposes the change ``-lr |k^|^2 g^`` of the
output, and the update is the ridge solution of all rows' proposals for the raw keys.
``transform="whiten"`` with a pool to warm up is StableEdit, which whitens gradients by their whole
covariance.

The statistics are one set for each shape of weight, and part of the edit: an edit that goes on
after another goes on with its statistics.

Departures from the published code: losses are means over a request's tokens, theirs over those of
ten requests, so that an edit does not depend on its neighbours; variances are exact
(``variance="chunks"`` is theirs); systems are solved in float64, the smaller of the two equal ones;
StableEdit's least eigenvalue is a share of the mean one, theirs 1e-6 whatever the gradients' scale.
``tokens="all"``, ``rounds`` and ``history`` are not in it.
"""

# n rows, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.pool import Pool
from datamodules.records import Request, requests_of
from editors.editor import Group
from editors.meta_learning.batches import chunks
from editors.meta_learning.factors import Factors, factors_of
from editors.meta_learning.least_squares import least_squares
from editors.meta_learning.rounds import failing
from editors.meta_learning.sums import Statistics, Sums, sums_of, together
from editors.settings import at_least, named, one_of, positive
from editors.weight_editor import WeightEditor
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.language_model import LanguageModel


class UltraEdit(WeightEditor):
    """Writes facts by one backward pass and one ridge solution a layer, without a subject.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to edit; by default the feed-forward outputs ``mlp_out``
            of the last third of the blocks.
        pool: requests that the statistics see before the first edit; None: the statistics are those
            of the edits alone, which have to have two rows at least.
        transform: ``standard``: each dimension by its own deviation; ``whiten``: gradients by their
            covariance.
        variance: ``exact``, or ``chunks`` as published: it depends on ``edits_per_batch``.
        tokens: which tokens' rows are written: ``target``, those that predict a target token, or
            ``all`` that the loss reaches, a subject's among them.
        lr: step size. A change's length grows with ``lr * d_in``.
        ridge: what the least squares weigh the update's size by; more than 0.
        turn: how many requests of an edit are written at once, the next ones on top of them; None:
            all.
        rounds: how often requests are written at most, each time on top of the last, while not all
            of them are true.
        history: whether an edit carries its keys and spares those of the edit before it.
        edits_per_batch: requests of one backward pass.

    Raises:
        ValueError: a setting is none of the above.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        pool: Pool | None = None,
        transform: str = "standard",
        variance: str = "exact",
        tokens: str = "target",
        lr: float = 1e-6,
        ridge: float = 1.0,
        turn: int | None = None,
        rounds: int = 1,
        history: bool = False,
        edits_per_batch: int = 10,
    ):
        one_of("transform", transform, ("standard", "whiten"))
        one_of("variance", variance, ("exact", "chunks"))
        one_of("tokens", tokens, ("target", "all"))
        if transform == "whiten" and variance == "chunks":
            raise ValueError("transform=whiten takes variance=exact: covariances are exact")
        positive(lr=lr, ridge=ridge)
        at_least(1, turn=turn, rounds=rounds, edits_per_batch=edits_per_batch)
        self.name = "stableedit" if transform == "whiten" else "ultraedit"
        self.language_model = language_model
        self.layers = _last_third(language_model) if layers is None else named(layers)
        self.pool = pool
        self.transform = transform
        self.variance = variance
        self.tokens = tokens
        self.lr = lr
        self.ridge = ridge
        self.turn = turn
        self.rounds = rounds
        self.history = history
        self.edits_per_batch = edits_per_batch
        self.warm: dict[str, Sums] | None = None

    def prepare(self) -> None:
        """Takes the statistics of the pool, once, of the clean model."""
        if self.pool is None or self.warm is not None:
            return
        warm: dict[str, Sums] = {}
        requests = requests_of(self.pool.records)
        for part in chunks(requests, self.edits_per_batch):
            warm = together(warm, self.sums(self.rows(part)))
        self.warm = warm

    def turns(self, groups: Sequence[Group]) -> Iterable[Sequence[Group]]:
        """The parts of the groups of `turn` requests."""
        size = self.turn or len(groups[0])
        starts = range(0, len(groups[0]), size)
        return [[group[start : start + size] for group in groups] for start in starts]

    @torch.no_grad()
    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """See `WeightEditor.write`; a group is written again until all of it is true."""
        rows = self.rows([request for group in groups for request in group])
        seen = together(self.warm or {}, sums_of(after))
        past = {} if after is None or not self.history else after.past_keys
        edits, size = [], len(groups[0])
        for number, group in enumerate(groups):
            start = number * size
            part = {layer: found.between(start, start + size) for layer, found in rows.items()}
            edits.append(self._again(group, self.solve(part, seen, past), seen, past))
        return WeightEdit.stack(edits)

    def _again(
        self, group: Group, edit: WeightEdit, seen: Statistics, past: Mapping[str, Tensor]
    ) -> WeightEdit:
        """The edit of one group, with the rounds that it takes until all requests are true."""
        for _ in range(self.rounds - 1):
            if not failing(self.language_model, edit, group):
                break
            with edit.hooks(self.language_model):
                rows = self.rows(group)
            more = self.solve(rows, together(seen, sums_of(edit)), past)
            edit = replace(edit.plus(more), past_keys=more.past_keys)
        return edit

    def solve(
        self, rows: Mapping[str, Factors], seen: Statistics, past: Mapping[str, Tensor]
    ) -> WeightEdit:
        """One edit of the model that the rows were taken of.

        Args:
            rows: each layer's.
            seen: the statistics before them.
            past: each layer's keys ``[1, p, d_in]`` whose outputs are to stay.
        """
        sums = self.sums(rows)
        seen = together(seen, sums)
        updates = {layer: self._update(part, seen, past.get(layer)) for layer, part in rows.items()}
        state = {name: x for key, part in sums.items() for name, x in part.state(key).items()}
        keys = {layer: part.keys[None] for layer, part in rows.items()} if self.history else {}
        kept = {name: tensor[None] for name, tensor in state.items()}
        return WeightEdit(updates, self.name, self.language_model.fingerprint, keys, kept)

    def rows(self, requests: Sequence[Request]) -> dict[str, Factors]:
        """Each layer's rows of the requests, of the model as it is now."""
        model, size = self.language_model, self.edits_per_batch
        return factors_of(model, self.layers, requests, size, tokens=self.tokens)

    def sums(self, rows: Mapping[str, Factors]) -> dict[str, Sums]:
        """What the statistics take in of the rows: keys and deltas of each shape of weight."""
        sums: dict[str, Sums] = {}
        unbiased, products = self.variance == "chunks", self.transform == "whiten"
        for part in rows.values():
            for chunk in _batches(part, self.edits_per_batch):
                keys, deltas = _names(chunk)
                more = {
                    keys: Sums.of(chunk.keys, unbiased=unbiased),
                    deltas: Sums.of(chunk.deltas, products, unbiased),
                }
                sums = together(sums, more)
        return sums

    def changes(self, rows: Factors, sums: Statistics) -> Tensor:
        """What the rows propose for the layer's output, ``[n, d_out]`` float64."""
        keys, deltas = (sums[name] for name in _names(rows))
        epsilon = torch.finfo(rows.keys.dtype).eps
        normed = keys.standardised(rows.keys, epsilon)
        transform = deltas.whitened if self.transform == "whiten" else deltas.standardised
        length = normed.square().sum(1, keepdim=True)
        return -self.lr * length * transform(rows.deltas, epsilon)

    def _update(self, rows: Factors, seen: Statistics, past: Tensor | None) -> LowRank | Dense:
        keys, changes = rows.keys.double(), self.changes(rows, seen)
        ridge = torch.tensor(self.ridge, dtype=torch.float64, device=keys.device)
        update = least_squares(keys[None], changes[None], ridge, past)
        return update.to(keys.device, rows.keys.dtype)


def _last_third(language_model: LanguageModel) -> list[str]:
    blocks = range(language_model.blocks)
    return [language_model.layer("mlp_out", block) for block in blocks[-(-2 * len(blocks) // 3) :]]


def _names(rows: Factors) -> tuple[str, str]:
    """What the statistics of a weight of this shape are called."""
    shape = f"{rows.keys.shape[1]}x{rows.deltas.shape[1]}"
    return f"{shape}.keys", f"{shape}.deltas"


def _batches(rows: Factors, size: int) -> list[Factors]:
    """The rows of each ``size`` requests."""
    starts = range(0, rows.requests, size)
    return [rows.between(start, start + size) for start in starts]
