"""What editing costs: seconds and memory.

The peak is that of the device while edits are made: on a GPU all tensors allocated there, on a CPU
the resident memory of this process, sampled; both include the language model itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import psutil
import torch

from datamodules.records import Record, requests_of

GIB = 2**30
SAMPLING_SECONDS = 0.01


@dataclass
class Cost:
    """Seconds and peak memory of a block of code; NaN until the block has ended."""

    seconds: float = float("nan")
    peak_gib: float = float("nan")

    @classmethod
    def none(cls) -> Self:
        """Of nothing."""
        return cls(0.0, 0.0)


Failure = tuple[str, Sequence[Record]]
"""Why no edit was made, and of which records."""


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure the block; work queued on ``device`` is waited for at both ends."""
    cost = Cost()
    with PeakMemory(device) as memory:
        synchronize(device)
        start = time.perf_counter()
        yield cost
        synchronize(device)
        cost.seconds = time.perf_counter() - start
    cost.peak_gib = memory.gib


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory (GiB) in use at a time within a ``with`` block."""

    def __init__(self, device: torch.device):
        self.device = device
        self.gib = 0.0

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._process, self._ended = psutil.Process(), threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *error) -> None:
        if self.device.type == "cuda":
            self.gib = torch.cuda.max_memory_allocated(self.device) / GIB
            return
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        ended = False
        while not ended:
            self.gib = max(self.gib, self._process.memory_info().rss / GIB)
            ended = self._ended.wait(SAMPLING_SECONDS)
        self.gib = max(self.gib, self._process.memory_info().rss / GIB)


def device_name(device: torch.device) -> str:
    """The GPU's product name, or the device type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def total(costs: Iterable[Cost]) -> Cost:
    """Seconds of all, and the highest of the peaks; zero of none."""
    costs = list(costs)
    return Cost(
        sum(cost.seconds for cost in costs), max((cost.peak_gib for cost in costs), default=0.0)
    )


@dataclass(frozen=True)
class Work:
    """What was done for a chunk by one editor or by the unedited model, and what it cost.

    Attributes:
        run: Whose chunk it is; what stands in every line of its answers.
        device: Where it was done.
        probes: How many were asked.
        asking: Of all of them.
        records: Those that the editor was to edit.
        at_once: How many requests were edited at a time.
        editing: Of all edits.
        preparing: Of the editor, if it was prepared for this chunk.
        failures: Why an editor made no edit, and of which of the records.
        overruled: Records left out, each with the later one that contradicts it.
        health: What `health.of` says of the edited model.
    """

    run: Mapping[str, object]
    device: torch.device
    probes: int
    asking: Cost
    records: Sequence[Record] = ()
    at_once: int = 0
    editing: Cost = field(default_factory=Cost.none)
    preparing: Cost = field(default_factory=Cost.none)
    failures: Sequence[Failure] = ()
    overruled: Sequence[tuple[Record, Record]] = ()
    health: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def line(self) -> dict[str, object]:
        """The same as JSON values; requests are counted, and records named."""
        requests = len(requests_of(self.records))
        failed = sum(len(requests_of(records)) for _, records in self.failures)
        return {
            "run": dict(self.run),
            "device": device_name(self.device),
            "preparation_seconds": self.preparing.seconds,
            "preparation_peak_gib": self.preparing.peak_gib,
            "requests": requests,
            "edits": requests - failed,
            "at_once": self.at_once,
            "edit_seconds": self.editing.seconds,
            "peak_gib": self.editing.peak_gib,
            "probes": self.probes,
            "probe_seconds": self.asking.seconds,
            "failures": [
                {
                    "reason": reason,
                    "requests": len(requests_of(records)),
                    "records": [record.id for record in records],
                }
                for reason, records in self.failures
            ],
            "overruled": [[record.id, later.id] for record, later in self.overruled],
            "overruled_requests": len(requests_of(record for record, _ in self.overruled)),
            "health": dict(self.health),
        }
