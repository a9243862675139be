"""Editors with known effects, and records whose probes cover every kind."""

from itertools import islice

import lightning as L
import torch

from datamodules.records import KINDS, Probe, Record, Request
from editors.editor import Editor
from edits.weights import Dense, LowRank, WeightEdit
from evaluation.protocols.batch import Batch
from evaluation.protocols.protocol import Protocol
from evaluation.protocols.sequential import Sequential

CITIES = ("Paris", "Lagos", "Tokyo", "Warsaw", "Gothenburg", "Stockholm", "Nigeria")
OBJECTS = ("Sweden", "France", "Japan", "Poland")


class Nothing(Editor):
    """Its edits are zero; each is for one request."""

    def __init__(self, language_model, *, strength: float = 0.0):
        self.language_model, self.strength = language_model, strength
        self.preparations = []

    def prepare(self):
        if not self.preparations:
            self.preparations.append(object())

    def compute(self, groups, after):
        assert after is None
        return self.edits([request for [request] in groups])

    def edits(self, requests):
        """An edit for each request."""
        layer = self.language_model.layer("mlp_out", 1)
        d_in, d_out = self.language_model.shape(layer)
        update = self.update(requests, d_in, d_out)
        return WeightEdit({layer: update}, self.name, self.language_model.fingerprint)

    def update(self, requests, d_in, d_out):
        n = len(requests)
        return LowRank(torch.zeros(n, d_in, 1), torch.zeros(n, 1, d_out))


class Noise(Nothing):
    """Its edits are large and depend on the request alone.

    Stops like a killed process after ``calls`` calls, if given.
    """

    def __init__(self, language_model, *, strength: float, calls: int | None = None):
        super().__init__(language_model, strength=strength)
        self.calls = self.left = calls

    def identity(self):
        # how often it can be called is not what the editor is
        return {name: value for name, value in super().identity().items() if name != "calls"}

    def edits(self, requests):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().edits(requests)

    def update(self, requests, d_in, d_out):
        weights = []
        for request in requests:
            generator = torch.Generator().manual_seed(sum(map(ord, request.prompt)))
            weights.append(self.strength * torch.randn(d_in, d_out, generator=generator))
        return Dense(torch.stack(weights), None)


class Adding(Noise):
    """Its edits are low-rank and add up; it refuses the prompts that hold ``refused``.

    Stops like a killed process after ``calls`` calls, if given.
    """

    def __init__(self, language_model, *, strength=2.0, refused="nothing", calls=None):
        super().__init__(language_model, strength=strength, calls=calls)
        self.refused = refused

    def compute(self, groups, after):
        requests = [request for group in groups for request in group]
        if any(self.refused in request.prompt for request in requests):
            raise ValueError(f"no {self.refused} here")
        edits = self.edits(requests)
        singles = (edits.select(number) for number in range(len(requests)))
        sums = [self.sum(islice(singles, len(group)), after) for group in groups]
        return WeightEdit.stack(sums) if len(sums) > 1 else sums[0]

    @staticmethod
    def sum(edits, after):
        for edit in edits:
            after = edit if after is None else after.plus(edit)
        return after

    def update(self, requests, d_in, d_out):
        dense = super().update(requests, d_in, d_out).weight
        return LowRank(dense[:, :, :2], dense[:, :2] / d_in)


class Alone(Adding):
    """It takes no edit that is there already."""

    def compute(self, groups, after):
        if after is not None:
            raise ValueError("alone edits the clean model only")
        return super().compute(groups, None)


def fakes(language_model, calls: int | None = None) -> dict[str, Editor]:
    noise = Noise(language_model, strength=2.0, calls=calls)
    return {"nothing": Nothing(language_model), "noise": noise}


ASKED = {"data": "fake", "generate": ("reliability", "unrelated"), "max_new_tokens": 4}


def single(editors, records, folder, **options) -> Batch:
    """As ``protocol=single`` has it."""
    return Batch(editors, records, folder, name="single", sizes=[1], **options)


def make_single(editors, records, folder) -> Batch:
    """Chunks of three, some kinds generated."""
    return single(editors, records, folder, records_per_chunk=3, **ASKED)


def make_protocol(name, language_model, records, folder) -> Protocol:
    """Any protocol, of two editors that can do what it asks."""
    if name == "single":
        return make_single(fakes(language_model), records, folder)
    weak = Adding(language_model, strength=0.5)
    editors = {"adding": Adding(language_model), "weak": weak}
    if name == "batch":
        return Batch(editors, records, folder, sizes=[1, 3], records_per_chunk=3, **ASKED)
    return Sequential(editors, records, folder, step=2, checkpoints=[4], **ASKED)


def make_trainer(**options) -> L.Trainer:
    return L.Trainer(
        **{"accelerator": "cpu", "devices": 1} | options,
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_records(count: int) -> list[Record]:
    """Records with one to three probes of each other kind."""
    return [make_record(index) for index in range(count)]


def make_record(index: int) -> Record:
    subject, other = CITIES[index % len(CITIES)], CITIES[(index + 1) % len(CITIES)]
    new, true = OBJECTS[index % len(OBJECTS)], OBJECTS[(index + 1) % len(OBJECTS)]
    probes = tuple(
        Probe(kind, f"{which} {other} is in {kind}", *pair)
        for kind in list(KINDS)[1:]
        for which in range(1 + index % 3)
        for pair in [(true, new) if kind == "neighborhood" else (new, true)]
    )
    request = Request(f"{subject} {index} is a city in", subject, new, true)
    return Record(f"record-{index}", (request,), probes)
