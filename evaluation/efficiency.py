"""What editing costs: seconds and memory.

The peak is that of the device while edits are made: on a GPU all tensors allocated there, on a CPU
the resident memory of this process, sampled; both include the language model itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import psutil
import torch

from datamodules.records import Record
from evaluation.conflicts import Overruled

GIB = 2**30
SAMPLING_SECONDS = 0.01


@dataclass
class Cost:
    """Seconds and peak memory of a block of code; NaN until the block has ended."""

    seconds: float = float("nan")
    peak_gib: float = float("nan")


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


def chunk_costs(
    run: Mapping[str, object],
    device: torch.device,
    asking: Cost,
    probes: int,
    records: Sequence[Record] = (),
    editing: Cost | None = None,
    preparing: Cost | None = None,
    *,
    failures: Sequence[tuple[str, Sequence[Record]]] = (),
    overruled: Sequence[Overruled] = (),
    at_once: int = 0,
    health: Mapping[str, Mapping] | None = None,
) -> dict[str, object]:
    """What a chunk cost and what happened in it; JSON values.

    Args:
        run: Whose chunk it is; what stands in every line of its answers.
        device: Where it was done.
        asking: Of all its probes.
        probes: How many they are.
        records: Those that an editor was to edit; the requests of one are counted as one.
        editing: Of all edits.
        preparing: If the editor was prepared for it.
        failures: Why an editor made no edit, and of which of the records.
        overruled: Records left out for later ones that contradict them.
        at_once: How many edits were made at a time.
        health: What `health.measured` says of the edited model.
    """
    failed = sum(len(lost) for _, lost in failures)
    return {
        "run": dict(run),
        "device": device_name(device),
        "preparation_seconds": preparing.seconds if preparing else 0.0,
        "requests": len(records),
        "edits": len(records) - failed,
        "at_once": at_once,
        "edit_seconds": editing.seconds if editing else 0.0,
        "peak_gib": editing.peak_gib if editing else 0.0,
        "probes": probes,
        "probe_seconds": asking.seconds,
        "failures": [
            {"reason": reason, "records": [record.id for record in lost]}
            for reason, lost in failures
        ],
        "overruled": [[one.id, other.id] for one, other in overruled],
        "health": dict(health or {}),
    }


def efficiency(costs: Mapping[str, list[dict]]) -> list[dict]:
    """One row per editor and n from the costs of its chunks.

    Columns: editor, n (how many requests an edit holds), device, ``preparation_seconds`` (once per
    model), ``seconds_per_edit``, the number of ``edits`` and how many were made ``at_once``,
    ``seconds_per_probe`` and the number of ``probes``, ``peak_gib`` while editing. None: nothing of
    the kind was measured.
    """
    found = []
    for editor, chunks in costs.items():
        for n in dict.fromkeys(chunk["run"]["n"] for chunk in chunks):
            found.append(_row(editor, n, [c for c in chunks if c["run"]["n"] == n]))
    return found


def _row(editor: str, n: int, chunks: list[dict]) -> dict:
    def total(name: str) -> float:
        return sum(chunk[name] for chunk in chunks)

    edits, probes = total("edits"), total("probes")
    return {
        "editor": editor,
        "n": n,
        "device": ", ".join(sorted({chunk["device"] for chunk in chunks})),
        "preparation_seconds": max(chunk["preparation_seconds"] for chunk in chunks),
        "seconds_per_edit": total("edit_seconds") / edits if edits else None,
        "edits": edits,
        "at_once": max(chunk["at_once"] for chunk in chunks),
        "seconds_per_probe": total("probe_seconds") / probes if probes else None,
        "probes": probes,
        "peak_gib": max(chunk["peak_gib"] for chunk in chunks) if edits else None,
    }
