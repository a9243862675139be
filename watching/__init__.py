"""What a person sees of long work: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY = 30.0
"""Seconds from one line to the next."""
SHORT = 2.0
"""Seconds of work that need no bar."""


class Watch:
    """Work that takes a while, as a ``with`` block; work inside it may be watched, too.

    On a terminal each has a bar, which goes when the work is done. Elsewhere the innermost one that
    comes along writes a line into the log where none was written for `EVERY` seconds, with those
    around it in front: what takes less writes nothing.

    Args:
        name: of the work.
        total: how much there is to do; None: nobody knows.
        unit: what is counted, in the plural.
        done: how much of it was done before.
    """

    # what is being watched in this process, the outermost first: a terminal is one, too
    _open: ClassVar[list[Watch]] = []
    _written: ClassVar[float] = 0.0
    clock: ClassVar[Any] = time.monotonic

    def __init__(self, name: str, total: int | None = None, unit: str = "steps", done: int = 0):
        self.name, self.total, self.unit = name, total, unit
        self.done, self.begun_at, self.values = done, done, {}
        self.start = 0.0
        self.bar: tqdm | None = None

    def __enter__(self) -> Self:
        self.start = Watch.clock()
        if not Watch._open:
            Watch._written = self.start
        Watch._open.append(self)
        if sys.stderr.isatty() and _first_process():
            self.bar = tqdm(
                total=self.total,
                initial=self.done,
                desc=self.name,
                unit=f" {self.unit}",
                leave=False,
                delay=SHORT,
            )
        return self

    def __exit__(self, *error: object) -> None:
        Watch._open.remove(self)
        if self.bar is not None:
            self.bar.close()

    def advance(self, count: int = 1, **values: Any) -> None:
        """So much more is done.

        Args:
            count: of the unit.
            values: what there is to say of it, such as a loss: a number, or a tensor whose mean is
                taken when it is shown.
        """
        self.done += count
        self.values |= values
        if self.bar is not None:
            self.bar.update(count)
            if values and self.bar.n == self.bar.last_print_n:  # it has just been drawn
                self.bar.set_postfix_str(self._valued(), refresh=False)
        elif self in Watch._open and Watch.clock() - Watch._written >= EVERY and _first_process():
            Watch._written = Watch.clock()
            log.info(" · ".join(map(str, Watch._open)))

    def __str__(self) -> str:
        """How far it is, how fast it goes, how long it will take, and what there is to say."""
        passed = Watch.clock() - self.start
        rate = (self.done - self.begun_at) / passed if passed > 0 else 0.0
        of = f" of {self.total:,}" if self.total is not None else ""
        parts = [f"{self.name}: {self.done:,}{of} {self.unit}"]
        parts += [_speed(rate)] if rate > 0 else []
        if rate > 0 and self.total is not None:
            parts.append(f"{_span((self.total - self.done) / rate)} left")
        parts += [self._valued()] if self.values else []
        return ", ".join(parts)

    def _valued(self) -> str:
        return ", ".join(f"{name} {_number(value):.4g}" for name, value in self.values.items())


def watched(
    items: Sequence[T], name: str, unit: str = "steps", size: Callable[[T], int] = lambda item: 1
) -> Iterator[T]:
    """The items, one after another, as work that is watched.

    Args:
        items: of the work.
        name: of the work.
        unit: what is counted, in the plural.
        size: how much of it an item is.
    """
    with Watch(name, sum(map(size, items)), unit) as watch:
        for item in items:
            yield item
            watch.advance(size(item))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float(value.detach().float().mean())


def _speed(rate: float) -> str:
    return f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.3g} seconds each"


def _span(seconds: float) -> str:
    """Hours, minutes and seconds, the first of which is not 0."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"
