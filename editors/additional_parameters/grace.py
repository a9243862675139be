"""GRACE: a codebook at one layer, whose values stand in for what the layer says near their keys.

Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors",
NeurIPS 2023, https://arxiv.org/abs/2211.11031. What entries there are and how large their balls
are is decided by queries and targets alone, see `edits.deferral`; an entry's value is then trained
by Adam until the target is likely. Departures: the query is each row's own, taken at its prompt's
last token; targets are compared by their tokens; every request is edited for, also one that the
model answers already.
"""

# N edits, S requests of all of them, d_in/d_out layer widths, T tokens

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.records import Request
from editors.descent import Descent, means
from editors.editor import Editor, Group
from editors.settings import at_least, one_of, positive
from edits.codebook import REPLACED, Codebook, placed
from edits.deferral import Growth, Rule, Table
from edits.looking import Place
from models.hooks import Output, hooked
from models.language_model import LanguageModel
from models.passes import Pass
from models.sites import activations

INITIAL = ("cold", "warm")


class Grace(Editor[Codebook]):
    """Keeps, for each request, a key and a trained value that takes a layer's word.

    Args:
        language_model: the model to edit.
        layer: name of the module whose input is the key and whose output is replaced; by default
            ``mlp_out`` of the block three quarters up, of an encoder-decoder in its decoder.
        replaced: tokens at which the value stands: ``"last"`` of the prompt, those before it
            (``"prompt"``), or ``"all"``, answers included.
        radius: of a new entry's ball, in the units of the layer's input.
        initial: what a new value is before it is trained: ``"cold"`` draws it from [0, 1),
            ``"warm"`` takes the layer's own output at the prompt's last token.
        steps: of Adam for each request, at most.
        lr: of Adam.
        stop_loss: no more steps once the loss (nats per token) is below; None: all steps.
        seed: of cold values, together with the request.
        edits_per_batch: values trained at a time.

    Raises:
        ValueError: no such layer or setting, or there is nothing before the last token: a decoder
            begins with it.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layer: str | None = None,
        replaced: str = "last",
        radius: float = 1.0,
        initial: str = "cold",
        steps: int = 100,
        lr: float = 1.0,
        stop_loss: float | None = None,
        seed: int = 0,
        edits_per_batch: int = 64,
    ):
        one_of("replaced", replaced, REPLACED)
        one_of("initial", initial, INITIAL)
        at_least(0, stop_loss=stop_loss)
        at_least(1, steps=steps, edits_per_batch=edits_per_batch)
        positive(radius=radius, lr=lr)
        self.language_model = language_model
        self.layer = _default_layer(language_model) if layer is None else layer
        language_model.module(self.layer)
        decoding = language_model.family.encoder is not None
        if replaced == "prompt" and decoding and not language_model.in_encoder(self.layer):
            raise ValueError(
                f"replaced='prompt' at {self.layer!r}: a decoder's prompt is its first token, "
                "with none before it; expected last or all, or a layer of the encoder"
            )
        self.replaced = replaced
        self.radius = radius
        self.initial = initial
        self.steps = steps
        self.lr = lr
        self.stop_loss = stop_loss
        at_least(0, seed=seed)
        self.seed = seed
        self.edits_per_batch = edits_per_batch

    def compute(self, groups: Sequence[Group], after: Codebook | None) -> Codebook:
        """What the requests do to each table, one by one; then their values, side by side."""
        model = self.language_model
        edit = Codebook((), self.layer, self.replaced, self.name, model.fingerprint)
        if after is not None:
            edit.check_like(after)
        requests = [request for group in groups for request in group]
        queries, outputs = self._seen(requests)
        first = self._first(requests, outputs)
        empty = Table.empty(self._rule, queries, outputs)
        table = empty if after is None else after.tables[0]
        sizes = [len(group) for group in groups]
        parts = zip(groups, queries.split(sizes), first.split(sizes), strict=True)
        books = [_Book(table, model, group, own, values) for group, own, values in parts]
        for turn in range(max(book.turns for book in books)):
            todo = [(book, at) for book in books for at in book.turn(turn)]
            for start in range(0, len(todo), self.edits_per_batch):
                self._train(todo[start : start + self.edits_per_batch])
        return replace(edit, tables=tuple(book.table() for book in books))

    @property
    def _rule(self) -> Rule:
        """In half precision a text in another batch is further away."""
        rounding = torch.finfo(self.language_model.dtype).eps
        return Rule(self.radius, max(Rule.slack, rounding))

    def _seen(self, requests: Group) -> tuple[Tensor, Tensor]:
        """The layer's input ``[S, d_in]`` and output ``[S, d_out]`` at prompts' last tokens."""
        seen = []
        for start in range(0, len(requests), self.edits_per_batch):
            chunk = requests[start : start + self.edits_per_batch]
            texts = _Texts(self.language_model, self.layer, chunk)
            asked = texts.place.asked
            rows = torch.arange(len(chunk), device=asked.device)
            found = activations(self.language_model, texts.batch, [self.layer], rows, asked)
            seen.append(found[self.layer])
        queries, outputs = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return queries, outputs

    def _first(self, requests: Group, outputs: Tensor) -> Tensor:
        """Each request's value before it is trained, ``[S, d_out]``."""
        if self.initial == "warm":
            return outputs
        width = outputs.shape[1]
        drawn = [torch.rand(width, generator=_drawing(self.seed, r)) for r in requests]
        return torch.stack(drawn).to(outputs)

    @torch.enable_grad()
    def _train(self, todo: Sequence[tuple[_Book, int]]) -> list[list[float]]:
        """Train the values of some requests, and give the losses before each one's steps."""
        texts = _Texts(self.language_model, self.layer, [book.requests[at] for book, at in todo])
        where = texts.place.replaced(self.replaced)
        values = [[book.start(at).clone().requires_grad_()] for book, at in todo]
        history: list[list[float]] = [[] for _ in todo]

        def losses(active: list[int]) -> Tensor:
            rows = torch.stack([values[number][0] for number in active])
            return texts.losses(active, rows, where[active])

        def done(active: list[int], now: Tensor) -> Tensor:
            for number, loss in zip(active, now.tolist(), strict=True):
                history[number].append(loss)
            return now < (-torch.inf if self.stop_loss is None else self.stop_loss)

        Descent(values, steps=self.steps, lr=self.lr).run(losses, done)
        for (book, at), (value,) in zip(todo, values, strict=True):
            book.values[at] = value.detach()
        return history


def _default_layer(language_model: LanguageModel) -> str:
    """Low enough for the blocks above to make all of the answer of it."""
    return language_model.layer("mlp_out", max(language_model.blocks * 3 // 4 - 1, 0))


def _drawing(seed: int, request: Request) -> torch.Generator:
    """Of numbers that depend on the request, not on those beside it."""
    text = f"{seed}\0{request.prompt}\0{request.target}"
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class _Book:
    """A table that a group of requests makes grow, and the values it is still waiting for."""

    def __init__(
        self,
        table: Table,
        language_model: LanguageModel,
        requests: Group,
        queries: Tensor,
        first: Tensor,
    ):
        prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
        ids = language_model.form.target_ids(prompts, targets, ended=False)
        self.before, self.requests, self.first = table, requests, first
        self.growth: Growth = table.grown(prompts, [tuple(own) for own in ids], queries)
        self.values: list[Tensor] = list(first)
        self._turn: list[int] = []
        for start in self.growth.starts[len(table.prompts) :]:
            behind = start - len(table.prompts)
            self._turn.append(0 if behind < 0 else self._turn[behind] + 1)

    @property
    def turns(self) -> int:
        """How often values are trained one after another."""
        return max(self._turn) + 1

    def turn(self, number: int) -> list[int]:
        """The requests whose values can be trained then."""
        return [at for at, own in enumerate(self._turn) if own == number]

    def start(self, at: int) -> Tensor:
        """What a request's value is trained from."""
        old = len(self.before.prompts)
        step = self.growth.starts[old + at]
        if step < 0:
            return self.first[at]
        return self.before.values[step] if step < old else self.values[step - old]

    def table(self) -> Table:
        """The table with all values."""
        return self.growth.table(torch.cat([self.before.values, torch.stack(self.values)]))


class _Texts:
    """Requests as token ids, and how likely their targets are with values in place."""

    def __init__(self, language_model: LanguageModel, layer: str, requests: Group):
        self.language_model, self.layer = language_model, layer
        self.batch = language_model.encode(
            [r.prompt for r in requests], [r.target for r in requests]
        )
        batch, source = self.batch, self.batch.source
        read = None if source is None else source.attention_mask
        rows = torch.arange(len(requests))
        seen = Pass(rows, batch.attention_mask, batch.asked, steps=False, source=read)
        self.place = Place.of(language_model, layer, seen)

    def losses(self, rows: Sequence[int], values: Tensor, where: Tensor) -> Tensor:
        """Mean negative log-likelihood (nats per token) of each target, a value in each row."""
        model = self.language_model

        def put(name: str, given: Tensor, output: Output) -> Output:
            return placed(output, values, where)

        with hooked({"": model.module(self.layer)}, put):
            logits, targets, row = model.target_logits(self.batch.rows(rows))
        return means(F.cross_entropy(logits, targets, reduction="none"), row, len(rows))
