"""Tables of keys with deferral radii: which inputs an entry speaks for.

Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors",
NeurIPS 2023, https://arxiv.org/abs/2211.11031. A table is what its steps have made of it, one after
another. They are kept, so that it can be made anew without some of them.

Departure: a step with the key of an entry and another label takes the entry's place. There, both
would get balls of no size.
"""

# S steps, M entries, B queries, d_in/d_out widths of keys and values

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

GAP = 1e-5
"""What parts the balls of two entries whose labels differ."""
CANDIDATES = 8
"""Entries whose distance is taken exactly: a product of matrices rounds too much to tell."""


@dataclass(frozen=True)
class Rule:
    """How large balls are.

    Attributes:
        radius: of a new entry's.
        slack: share of a key's length up to which a distance is rounding: the same text in another
            batch does not have the same bits.

    Raises:
        ValueError: one of them is below 0, or the radius 0.
    """

    radius: float = 1.0
    slack: float = 1e-5

    def __post_init__(self):
        if not (self.radius > 0 and self.slack >= 0):
            raise ValueError(f"no ball has the radius {self.radius} and the slack {self.slack}")


@dataclass(frozen=True, eq=False)
class Table:
    """Entries, and the steps that made them.

    Attributes:
        rule: how large balls are.
        prompts: of each step's request.
        labels: token ids of each step's target; steps are of one mind if they are equal.
        starts: the step whose value each step's value was trained from; -1: from a new one.
        queries: ``[S, d_in]``, each step's query.
        values: ``[S, d_out]``, the value that each step came to.
        born: for each entry the step whose query and label are its own.
        last: for each entry the step whose value it has.
        radii: ``[M]`` in float64.
    """

    rule: Rule
    prompts: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    queries: Tensor
    values: Tensor
    born: tuple[int, ...]
    last: tuple[int, ...]
    radii: Tensor

    def __post_init__(self):
        steps = {len(x) for x in (self.prompts, self.labels, self.starts, self.queries)}
        entries = {len(x) for x in (self.born, self.last, self.radii)}
        if steps != {len(self.values)} or len(entries) != 1:
            raise ValueError("entries and steps of a codebook are not one to one")

    @classmethod
    def empty(cls, rule: Rule, queries: Tensor, values: Tensor) -> Table:
        """A table without a step, for queries and values such as these."""
        radii = queries.new_empty(0, dtype=torch.float64)
        return cls(rule, (), (), (), queries[:0], values[:0], (), (), radii)

    def __len__(self) -> int:
        return len(self.born)

    @cached_property
    def keys(self) -> Tensor:
        """The entries' keys ``[M, d_in]``."""
        return self.queries[list(self.born)]

    @cached_property
    def answers(self) -> Tensor:
        """The entries' values ``[M, d_out]``."""
        return self.values[list(self.last)]

    def to(self, device: torch.device) -> Table:
        """The same table there."""
        queries, values, radii = (x.to(device) for x in (self.queries, self.values, self.radii))
        return replace(self, queries=queries, values=values, radii=radii)

    def grown(
        self, prompts: Sequence[str], labels: Sequence[tuple[int, ...]], queries: Tensor
    ) -> Growth:
        """What more steps make of it; their values are still to come."""
        growth = Growth(
            self.rule,
            (*self.prompts, *prompts),
            (*self.labels, *labels),
            torch.cat([self.queries, queries]),
        )
        growth.go_on(self)
        return growth

    def plus(self, other: Table) -> Table:
        """With the steps of another table behind its own.

        Raises:
            ValueError: one of them would have been trained from a value of this table.
        """
        growth = self.grown(other.prompts, other.labels, other.queries.to(self.queries))
        behind = tuple(-1 if start < 0 else start + len(self.prompts) for start in other.starts)
        values = torch.cat([self.values, other.values.to(self.values)])
        return growth.checked((*self.starts, *behind)).table(values)

    def without(self, prompts: Sequence[str]) -> Table:
        """As it would be if the requests with these prompts had never been made.

        Raises:
            ValueError: there is none with such a prompt, or another one was trained on from it.
        """
        for prompt in prompts:
            if prompt not in self.prompts:
                raise ValueError(f"no request of the edit has the prompt {prompt!r}")
        keep = [n for n, prompt in enumerate(self.prompts) if prompt not in set(prompts)]
        place = {-1: -1} | {step: at for at, step in enumerate(keep)}
        growth = self.empty(self.rule, self.queries, self.values).grown(
            [self.prompts[n] for n in keep], [self.labels[n] for n in keep], self.queries[keep]
        )
        starts = [place.get(self.starts[n]) for n in keep]
        return growth.checked(starts).table(self.values[keep])


class Growth:
    """A table in the making: each step finds its entry, or makes one.

    Attributes:
        starts: as of `Table`.
    """

    def __init__(
        self,
        rule: Rule,
        prompts: tuple[str, ...],
        labels: tuple[tuple[int, ...], ...],
        queries: Tensor,
    ):
        self.rule, self.prompts, self.labels, self.queries = rule, prompts, labels, queries
        self.starts: list[int] = []
        self._born: list[int] = []
        self._last: list[int] = []
        self._radii: list[float] = []
        self._keys = torch.empty_like(queries)
        self._squares = queries.new_empty(len(queries))

    def go_on(self, table: Table) -> None:
        """Take the steps that are not the table's, from the entries that it has."""
        self.starts, self._born = list(table.starts), list(table.born)
        self._last, self._radii = list(table.last), table.radii.tolist()
        self._keys[: len(table)] = table.keys
        self._squares[: len(table)] = table.keys.square().sum(1)
        for step in range(len(table.prompts), len(self.prompts)):
            self._take(step)

    def _take(self, step: int) -> None:
        if not self._born:
            return self._add(step, self.rule.radius)
        count, query = len(self._born), self.queries[step]
        distances, found = nearest(query[None], self._keys[:count], self._squares[:count])
        distance, entry = float(distances), int(found)
        if distance > self.rule.radius + self._radii[entry]:
            self._add(step, self.rule.radius)
        elif self.labels[self._born[entry]] == self.labels[step]:
            self._radii[entry] = max(self._radii[entry], distance)
            self.starts.append(self._last[entry])
            self._last[entry] = step
        elif distance <= self.rule.slack * float(query.norm()):
            self._displace(step, entry)
        else:
            self._radii[entry] = distance / 2 - GAP
            self._add(step, distance / 2)

    def _add(self, step: int, radius: float) -> None:
        self._put(step, len(self._born))
        self._born.append(step)
        self._last.append(step)
        self._radii.append(radius)

    def _displace(self, step: int, entry: int) -> None:
        """Its ball may have grown over other questions of the old answer."""
        self._put(step, entry)
        self._born[entry] = self._last[entry] = step
        self._radii[entry] = min(self._radii[entry], self.rule.radius)

    def _put(self, step: int, entry: int) -> None:
        self.starts.append(-1)
        self._keys[entry] = self.queries[step]
        self._squares[entry] = self.queries[step].square().sum()

    def checked(self, starts: Sequence[int | None]) -> Growth:
        """The same, if its steps were trained from the values of these ones.

        Raises:
            ValueError: they were not, so that their values would have to be trained anew.
        """
        for prompt, own, given in zip(self.prompts, self.starts, starts, strict=True):
            if own != given:
                raise ValueError(
                    f"the value for {prompt!r} was trained from that of another request, or would "
                    "be now: it would have to be edited anew"
                )
        return self

    def table(self, values: Tensor) -> Table:
        """The table, given what values its steps came to, ``[S, d_out]``."""
        radii = torch.tensor(self._radii, dtype=torch.float64, device=self.queries.device)
        return Table(
            self.rule,
            self.prompts,
            self.labels,
            tuple(self.starts),
            self.queries,
            values,
            tuple(self._born),
            tuple(self._last),
            radii,
        )


def nearest(
    queries: Tensor, keys: Tensor, squares: Tensor, barred: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distance ``[B]`` to each query's nearest key, and that key; of equal ones the first.

    One product of matrices finds those that it may be; see `CANDIDATES`.

    Args:
        queries: ``[B, d_in]``.
        keys: ``[M, d_in]``, one at least.
        squares: ``[M]``, their squared lengths.
        barred: bool ``[B, M]``, keys that are none for a query; their distance is infinite.
    """
    apart = torch.addmm(squares[None], queries, keys.T, alpha=-2)  # up to the query's own square
    if barred is not None:
        apart = apart.masked_fill(barred, torch.inf)
    likely = apart.topk(min(CANDIDATES, len(keys)), largest=False).indices.sort().values
    exact = torch.linalg.vector_norm(queries[:, None] - keys[likely], dim=2)
    if barred is not None:
        exact = exact.masked_fill(barred.gather(1, likely), torch.inf)
    distances, at = exact.min(1)
    return distances, likely.gather(1, at[:, None])[:, 0]
