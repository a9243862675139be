"""WISE: a side memory beside a layer's weight, and a gate that says which prompts it is for.

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024, https://arxiv.org/abs/2405.14768, as in EasyEdit
(https://github.com/zjunlp/EasyEdit). Descent on a copy of the weight makes requests true, and moves
what the layer says to them by more than what it says to others, see `edits.sides`. After ``shard``
requests another copy is begun, and of every ``merge`` requests the copies are merged.

Departures: the gate is asked for each row, and at the prompt's tokens alone, so that it is asked in
training, too, before an answer is there; requests that come together are trained together; a
descent ends once its loss is small, also while it still falls; past requests are not replayed.
"""

# N edits, R rows, T tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.pool import Pool
from datamodules.records import Request
from editors.additional_parameters.memory import Text, texts_of
from editors.additional_parameters.scope import Margins, Rows, default_layer, drawn, rows_of
from editors.additional_parameters.ties import ties
from editors.descent import Descent, means
from editors.editor import Editor, Group, alike
from editors.locate_then_edit.search.contexts import Contexts
from editors.settings import at_least, one_of, positive, shares
from edits.sides import SideEdit, distances, mean_over, prompt_distances
from edits.updates import Dense
from edits.weights import WeightEdit
from models.feed_forward import feed_forward
from models.hooks import Output, compute_dtype, hidden_of, hooked, unflattened, widened
from models.language_model import LanguageModel

SCOPES = ("text", "subject")


@dataclass
class Memories:
    """Those of one edit in the making.

    Attributes:
        weights: changes of the layer's weight.
        least: of each the least distance of a request.
        requests: how many each holds.
    """

    weights: list[Tensor] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    def close(self, count: int, density: float) -> None:
        """Merge the last ``count`` memories."""
        merged = ties(torch.stack(self.weights[-count:]), [1 / count] * count, density)
        self.weights[-count:] = [merged]
        self.least[-count:] = [min(self.least[-count:])]
        self.requests[-count:] = [sum(self.requests[-count:])]


class Wise(Editor[SideEdit]):
    """Trains side memories until the targets are likely and requests stand apart.

    Args:
        language_model: the model to edit; decoder-only.
        layer: linear map that has them; by default ``mlp_out`` of the block three quarters up.
        pool: whose texts are to be left alone; only ``locality: 0`` goes without.
        locality: how many of them for a request.
        scope: what is to be moved: the whole ``text`` of a request, or the tokens of its
            ``subject``, and then no other ones of the text.
        margins: by how much.
        contexts: what requests are put behind.
        ratio: share of a memory's least distance from which on a prompt is for it.
        longest: see `edits.sides.prompt_distances`.
        steps: of a descent, at most.
        lr: of SGD.
        weight_decay: on the whole weight, in its L2 form.
        stop_loss: no more steps once the loss is below; None: all steps.
        norm_constraint: largest change of any weight; None: free.
        mask: share of the weights that a memory may change, drawn anew for each.
        shard: requests of a memory.
        merge: requests after which memories are merged; None: never.
        density: share of a memory that is kept when it is merged.
        seed: of masks and of texts to leave alone.
        edits_per_batch: independent edits trained at a time.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layer: str | None = None,
        pool: Pool | None = None,
        locality: int = 1,
        scope: str = "text",
        margins: Margins = Margins(),  # noqa: B008 (frozen)
        contexts: Contexts = Contexts(lengths=((5, 5), (10, 5))),  # noqa: B008 (frozen)
        ratio: float = 0.88,
        longest: int = 100,
        steps: int = 70,
        lr: float = 1.0,
        weight_decay: float = 1e-5,
        stop_loss: float | None = 0.02,
        norm_constraint: float | None = 1.0,
        mask: float = 0.2,
        shard: int = 500,
        merge: int | None = 1000,
        density: float = 0.53,
        seed: int = 0,
        edits_per_batch: int = 16,
    ):
        language_model.require_decoder_only("wise")
        one_of("scope", scope, SCOPES)
        at_least(0, locality=locality, weight_decay=weight_decay, longest=longest)
        at_least(0, stop_loss=stop_loss)
        at_least(1, steps=steps, shard=shard, edits_per_batch=edits_per_batch)
        positive(ratio=ratio, lr=lr, norm_constraint=norm_constraint)
        shares(mask=mask, density=density)
        if merge is not None and (merge % shard or merge <= shard):
            raise ValueError(f"merge={merge}: expected several times shard={shard}, or null")
        self.language_model = language_model
        self.layer = default_layer(language_model) if layer is None else layer
        language_model.shape(self.layer)
        self.pool = pool
        self.locality = locality
        self.scope = scope
        self.margins = margins
        self.contexts = contexts
        self.ratio = ratio
        self.longest = longest
        self.steps = steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.stop_loss = stop_loss
        self.norm_constraint = norm_constraint
        self.mask = mask
        self.shard = shard
        self.merge = merge
        self.density = density
        at_least(0, seed=seed)
        self.seed = seed
        self.edits_per_batch = edits_per_batch
        self.activation = feed_forward(language_model, 0).activation
        self._templates: tuple[str, ...] | None = None
        self._texts: list[Text] = []

    def prepare(self) -> None:
        """Writes the contexts, once.

        Raises:
            ValueError: there is no pool to take texts of.
        """
        if self.locality and self.pool is None:
            raise ValueError("wise takes texts to leave alone of a pool: pool=records")
        if self.scope == "text" and not self.locality:
            raise ValueError("locality=0 leaves nothing outside: expected scope='subject', or more")
        if self._templates is None:
            self._texts = texts_of(self.pool.records) if self.pool is not None else []
            self._templates = self.contexts.of(self.language_model)

    def compute(self, groups: Sequence[Group], after: SideEdit | None) -> SideEdit:
        """Memories of all groups, those of one size side by side."""
        made: dict[int, Memories] = {}
        for numbers in alike(groups, self.edits_per_batch):
            books = [self._begun(after) for _ in numbers]
            for part in self._parts(len(groups[numbers[0]]), books[0]):
                self.write(books, [groups[n][part] for n in numbers])
            made |= dict(zip(numbers, books, strict=True))
        return self.edit_of([made[n] for n in range(len(groups))])

    def write(self, books: Sequence[Memories], groups: Sequence[Group]) -> list[list[list[float]]]:
        """Train each edit's open memory, or a new one, on its requests, and see to what is full.

        Returns:
            For each edit, before every step: its loss on the targets, and by the margins.
        """
        memory = self._write(books, groups)
        for book, delta, least in zip(books, memory.deltas, memory.least, strict=True):
            if not self._is_open(book):
                book.weights.append(delta)
                book.least.append(least)
                book.requests.append(len(groups[0]))
            else:
                book.weights[-1], book.requests[-1] = delta, book.requests[-1] + len(groups[0])
                book.least[-1] = min(book.least[-1], least)
            if self.merge is not None and sum(book.requests) % self.merge == 0:
                book.close(self.merge // self.shard, self.density)
        return memory.history

    def _write(self, books: Sequence[Memories], groups: Sequence[Group]) -> _Writing:
        writing = _Writing(self, books, self.rows(groups))
        descent = Descent(
            [[delta] for delta in writing.deltas], steps=self.steps, lr=self.lr, optimiser="sgd"
        )
        with torch.enable_grad():
            descent.run(writing.losses, writing.done, writing.slope, writing.project)
        writing.deltas = [delta.detach() for delta in writing.deltas]
        return writing

    def rows(self, groups: Sequence[Group]) -> Rows:
        """What each edit is trained on."""
        assert self._templates is not None
        others = [[text for request in group for text in self._others(request)] for group in groups]
        subject = self.scope == "subject"
        return rows_of(self.language_model, groups, self._templates, others, subject)

    def _others(self, request: Request) -> list[Text]:
        key = f"{self.seed}\0{request.prompt}\0{request.target}"
        return drawn(self._texts, self.locality, key, request.subject)

    def mask_of(self, memory: int) -> Tensor:
        """Which weights ``[d_in, d_out]`` the memory of this number may change."""
        drawn = torch.Generator().manual_seed(self.seed + memory)
        return torch.rand(self.language_model.shape(self.layer), generator=drawn) < self.mask

    def edit_of(self, books: Sequence[Memories]) -> SideEdit:
        """The edits."""
        return SideEdit(
            torch.stack([weight for book in books for weight in book.weights]),
            tuple(least for book in books for least in book.least),
            tuple(tuple(book.requests) for book in books),
            self.layer,
            self.activation,
            self.ratio,
            self.longest,
            self.shard,
            self.name,
            self.language_model.fingerprint,
        )

    def _begun(self, after: SideEdit | None) -> Memories:
        if after is None:
            return Memories()
        if not isinstance(after, SideEdit) or (after.layer, after.shard) != (
            self.layer,
            self.shard,
        ):
            raise ValueError(
                f"wise goes on from its own edits of {self.layer!r} with shard={self.shard} only"
            )
        return Memories(list(after.weights), list(after.least), list(after.requests[0]))

    def _is_open(self, book: Memories) -> bool:
        return bool(book.requests) and book.requests[-1] < self.shard

    def _parts(self, count: int, book: Memories) -> Iterator[slice]:
        """Where a group of ``count`` requests is cut, as memories become full."""
        room, at = self.shard - (book.requests[-1] if self._is_open(book) else 0), 0
        while at < count:
            yield slice(at, min(count, at + room))
            at, room = at + room, self.shard


class _Writing:
    """The open memories of several edits while they are trained.

    Attributes:
        deltas: each one's change of the weight.
        least: each one's distance of its requests, before its last step.
        history: of each, before every step: loss on the targets, and by the margins.
    """

    def __init__(self, editor: Wise, books: Sequence[Memories], rows: Rows):
        self.editor, self.rows = editor, rows
        model = editor.language_model
        weight = model.weight(editor.layer).detach()
        self.weight = weight.to(compute_dtype(model.dtype)).contiguous()
        numbers = [sum(book.requests) // editor.shard for book in books]
        self.masks = [editor.mask_of(number).to(self.weight) for number in numbers]
        self.deltas = [
            (book.weights[-1].to(self.weight) if editor._is_open(book) else 0 * self.weight)
            .clone()
            .requires_grad_()
            for book in books
        ]
        self.least = [0.0] * len(books)
        self.history: list[list[list[float]]] = [[] for _ in books]

    def losses(self, active: list[int]) -> Tensor:
        """Of the edits with these numbers."""
        rows = self.rows.of(active)
        before, after, nll, row = self._pass(active, rows)
        apart = distances(before, after, self.editor.activation)
        told = rows.inside.any(1)
        # their sum is divided by one token more than there are
        tokens = torch.bincount(row, minlength=len(told))
        targets = means(nll, row, len(told)) * tokens / (tokens + 1)
        total = []
        for place, number in enumerate(active):
            own = rows.owner == place
            parts = targets[own & told].mean(), self._margin(apart, rows, own)
            whole = prompt_distances(apart.detach(), rows.prompt, self.editor.longest)
            self.least[number] = float(whole[own & told].mean())
            self.history[number].append([float(part.detach()) for part in parts])
            total.append(sum(parts))
        return torch.stack(total)

    def _margin(self, apart: Tensor, rows: Rows, own: Tensor) -> Tensor:
        inside, outside = (
            mean_over(apart, mask)[own & mask.any(1)] for mask in (rows.inside, rows.outside)
        )
        return self.editor.margins.loss(inside, outside)

    def _pass(self, active: list[int], rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the layer says without and with the memories ``[R, T, d_out]``; losses of tokens."""
        editor, model = self.editor, self.editor.language_model
        count = len(rows.owner)
        update = Dense(torch.stack([self.deltas[number] for number in active]))
        edit = WeightEdit({editor.layer: update}, editor.name, model.fingerprint)
        seen: list[Tensor] = []

        def look(name: str, given: Tensor, output: Output) -> None:
            seen.append(widened(unflattened(hidden_of(output), count)))

        layer = {editor.layer: model.module(editor.layer)}
        each = rows.owner.cpu() if len(active) > 1 else None
        with hooked(layer, look), edit.hooks(model, each), hooked(layer, look):
            logits, targets, row = model.target_logits(rows.batch)
        before, after = seen
        return before, after, F.cross_entropy(logits, targets, reduction="none"), row

    def done(self, active: list[int], values: Tensor) -> Tensor:
        """Which of them stop at these losses."""
        stop = self.editor.stop_loss
        return torch.zeros_like(values, dtype=torch.bool) if stop is None else values < stop

    def slope(self, number: int, at: int, gradient: Tensor) -> Tensor:
        """The gradient where it may go, and the pull of the decay on all of the weight."""
        whole = self.weight + self.deltas[number].detach()
        return gradient * self.masks[number] + self.editor.weight_decay * whole

    def project(self, numbers: list[int]) -> None:
        """Keep the changes within bounds."""
        most = self.editor.norm_constraint
        if most is not None:
            for number in numbers:
                self.deltas[number].clamp_(-most, most)
