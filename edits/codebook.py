"""Codebooks: where a layer is given what is near a key, a value takes the place of what it says."""

# N edits, M entries of all of them, B rows, T tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Literal, Self, TypedDict

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edits.deferral import Rule, Table, nearest
from edits.edit import Edit, Route, State
from edits.looking import Place, looking
from edits.storage import Source
from models.hooks import (
    Output,
    full_precision,
    hidden_of,
    unflattened,
    with_hidden,
)
from models.language_model import LanguageModel

REPLACED = ("last", "prompt", "all")
"""Tokens at which values stand: the prompt's last one, those before it, or all there are."""
_LISTED = ("prompts", "labels", "starts", "born", "last")


class Book(TypedDict):
    """What a file says of a table."""

    radius: float
    slack: float
    prompts: list[str]
    labels: list[list[int]]
    starts: list[int]
    born: list[int]
    last: list[int]


class CodebookHeader(TypedDict):
    """What a file says of codebooks."""

    layer: str
    replaced: Literal["last", "prompt", "all"]
    books: list[Book]


@dataclass(frozen=True, eq=False, repr=False)
class Codebook(Edit):
    """N edits of the same layer of one model, each a table of keys, values and radii.

    What the layer is given at a prompt's last token is looked up once for each row. If it lies in
    the ball of the nearest key, that entry's value is what the layer says at the ``replaced``
    tokens of the row, those that are generated later included; otherwise the row is not touched.

    Args:
        tables: of each edit.
        layer: module whose input is looked up and whose output is replaced.
        replaced: at which tokens, see `REPLACED`.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.
    """

    kind = "codebook"
    header = CodebookHeader
    tables: tuple[Table, ...]
    layer: str
    replaced: str
    editor: str
    model: str

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def layers(self) -> tuple[str, ...]:
        """The one that speaks otherwise."""
        return (self.layer,)

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = [index] if isinstance(index, int) else torch.as_tensor(index).tolist()
        return replace(self, tables=tuple(self.tables[n] for n in index))

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        return replace(self, tables=tuple(table.to(device) for table in self.tables))

    def plus(self, other: Edit) -> Self:
        """Both at once, edit by edit: the other one's requests come behind.

        Raises:
            ValueError: they differ in layer, model or N, or requests of the two share an entry.
        """
        self.check_like(other)
        assert isinstance(other, Codebook)
        if len(self) != len(other):
            raise ValueError(f"cannot add {len(other)} edits to {len(self)}: one to one only")
        pairs = zip(self.tables, other.tables, strict=True)
        return replace(self, tables=tuple(one.plus(more) for one, more in pairs))

    def without(self, prompts: Sequence[str]) -> Self:
        """The one edit as if the requests with these prompts had never been made, to the bit.

        Raises:
            ValueError: there are several edits, no request has such a prompt, or the value of
                another request was trained from theirs.
        """
        if len(self) != 1:
            raise ValueError(f"only a single edit can be taken from, got {len(self)}: select one")
        return replace(self, tables=(self.tables[0].without(prompts),))

    def check_like(self, other: Edit) -> None:
        """Whether the other edit is one of the same layer, and values stand at the same tokens.

        Raises:
            ValueError: it is not.
        """
        if not isinstance(other, Codebook):
            raise ValueError(f"an edit of {self.editor} goes on from its own edits only")
        own, given = ((e.model, e.layer, e.replaced) for e in (self, other))
        if own != given:
            raise ValueError(f"the edits differ in model, layer or tokens: {own} and {given}")

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model.

        Raises:
            ValueError: another model, a layer that it lacks, or other widths.
        """
        super().check(language_model)
        layer = language_model.module(self.layer)
        if not isinstance(layer, nn.Linear | Conv1D):
            return
        widths = self.keys.shape[1], self.values.shape[1]
        if widths != tuple(language_model.shape(self.layer)):
            raise ValueError(
                f"keys and values are {list(widths)} wide; the layer {self.layer!r} is "
                f"{list(language_model.shape(self.layer))}"
            )

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """One: the language model itself, with a hook on the layer."""
        if not len(self.book):
            return [Route(range(len(prompts)), prompts)]
        return looking(
            language_model, self.layer, prompts, rows, lambda *seen: _Visit(self, *seen).look
        )

    def lookup(self, queries: Tensor, books: Tensor) -> Tensor:
        """The entry (of all tables') in whose ball each query is, -1 for none, ``[B]``.

        Args:
            queries: ``[B, d_in]``.
            books: ``[B]``, the table that each query is looked up in, -1 for none.
        """
        several = len(self) > 1 or bool((books < 0).any())
        barred = books[:, None] != self.book if several else None
        with full_precision(queries.device):
            distances, entries = nearest(queries.to(self.keys), self.keys, self.squares, barred)
        return torch.where(distances <= self.reach[entries], entries, -1)

    @cached_property
    def keys(self) -> Tensor:
        """The keys of all tables, ``[M, d_in]``."""
        return torch.cat([table.keys for table in self.tables])

    @cached_property
    def values(self) -> Tensor:
        """The values of all tables, ``[M, d_out]``."""
        return torch.cat([table.answers for table in self.tables])

    @cached_property
    def squares(self) -> Tensor:
        """Squared length of each key, ``[M]``."""
        return self.keys.square().sum(1)

    @cached_property
    def reach(self) -> Tensor:
        """How far from each key a query may be, ``[M]``: its radius, and what rounding adds."""
        slack = torch.cat([t.radii.new_full((len(t),), t.rule.slack) for t in self.tables])
        return torch.cat([table.radii for table in self.tables]) + slack * self.squares.sqrt()

    @cached_property
    def book(self) -> Tensor:
        """The table of each entry, ``[M]``."""
        counts = torch.tensor([len(table) for table in self.tables], device=self.keys.device)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    def size(self, language_model: LanguageModel) -> dict[str, float]:
        """How many entries there are, and how many numbers they and their past hold."""
        numbers = sum(table.queries.numel() + table.values.numel() for table in self.tables)
        return {"entries": float(len(self.book)), "numbers": float(numbers)}

    def state(self) -> State:
        """The steps and entries of each table; queries, values and radii of all in one."""
        books = [
            asdict(table.rule) | {name: list(getattr(table, name)) for name in _LISTED}
            for table in self.tables
        ]
        tensors = {
            name: torch.cat([getattr(table, name) for table in self.tables])
            for name in ("queries", "values", "radii")
        }
        return {"layer": self.layer, "replaced": self.replaced, "books": books}, tensors

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of.

        Raises:
            ValueError: tensors are missing or do not fit the tables.
        """
        owner = source.owner
        tables = tuple(_tables(header["books"], tensors))
        return cls(tables, header["layer"], header["replaced"], owner.editor, owner.model)


def _tables(books: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> Iterator[Table]:
    steps, entries = ([len(book[name]) for book in books] for name in ("prompts", "born"))
    sizes = {"queries": steps, "values": steps, "radii": entries}
    if [tensors[name].ndim for name in sizes] != [2, 2, 1]:
        raise ValueError("it is damaged: expected queries [S, d], values [S, d] and radii [M]")
    if any(len(tensors[name]) != sum(own) for name, own in sizes.items()):
        raise ValueError("it is damaged: its tables and tensors are not of one length")
    parts = zip(*(tensors[name].split(own) for name, own in sizes.items()), strict=True)
    for book, (queries, values, radii) in zip(books, parts, strict=True):
        prompts, starts, born, last = (
            tuple(book[name]) for name in ("prompts", "starts", "born", "last")
        )
        labels = tuple(tuple(ids) for ids in book["labels"])
        rule = Rule(book["radius"], book["slack"])
        if not all(0 <= step < len(prompts) for step in chain(born, last)):
            raise ValueError("it is damaged: an entry names a step that there is not")
        if not all(-1 <= start < step for step, start in enumerate(starts)):
            raise ValueError("it is damaged: a step goes on from one that is not before it")
        if not all(ids and min(ids) >= 0 for ids in labels):
            raise ValueError("it is damaged: a target has no tokens")
        yield Table(rule, prompts, labels, starts, queries, values, born, last, radii)


class _Visit:
    """A layer in one micro-batch: looked up at the first pass, and kept for those that follow."""

    def __init__(self, edit: Codebook, books: Tensor, place: Place):
        self.edit, self.books, self.place = edit, books.to(place.asked.device), place
        self.entries: Tensor | None = None

    def look(self, name: str, given: Tensor, output: Output) -> Output | None:
        """The output with the rows' values in it."""
        rows, entries = len(self.books), self.entries
        if entries is None:
            first = torch.arange(rows, device=given.device)
            queries = unflattened(given, rows)[first, self.place.asked]
            entries = self.entries = self.edit.lookup(queries, self.books)
            where = self.place.replaced(self.edit.replaced)
        elif self.edit.replaced == "all":
            where = torch.ones(rows, 1, dtype=torch.bool, device=given.device)
        else:
            return None
        inside = entries >= 0
        if not inside.any():
            return None
        values = self.edit.values[entries.clamp(min=0)]
        return placed(output, values, where & inside[:, None])


def placed(output: Output, values: Tensor, where: Tensor) -> Output:
    """The output of a layer with each row's value ``[B, d_out]`` ``where`` it is to stand.

    Differentiable in the values; what stands elsewhere is the layer's own, to the bit.
    """
    hidden = hidden_of(output)
    own = unflattened(hidden, len(where))
    mixed = torch.where(where[:, :, None], values[:, None].to(own.dtype), own)
    return with_hidden(output, mixed.view_as(hidden))
