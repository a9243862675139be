"""What the tests of trained editors share: records, exact language models, a trainer."""

import copy
import itertools

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from small_editors import built
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.records import Probe, Record, Request
from editors.meta_learning.ke import Ke
from editors.meta_learning.malmen import Malmen
from editors.meta_learning.mend import Mend
from models import LanguageModel

FACTS = (
    ("Gothenburg", "Sweden", "Japan"), ("Lagos", "Nigeria", "France"), ("Tokyo", "Japan", "Poland"),
    ("Warsaw", "Poland", "Sweden"), ("Paris", "France", "the Netherlands"),
    ("Berlin", "Germany", "Nigeria"), ("Stockholm", "Sweden", "Germany"),
)  # fmt: skip


@pytest.fixture(scope="session")
def exact(tiny):
    """A tiny GPT-2 in float64; read-only."""
    ordinary = tiny("gpt2")
    return LanguageModel(copy.deepcopy(ordinary.model).double(), ordinary.tokenizer, "exact")


@pytest.fixture(scope="session")
def records():
    """Seven records, each with a paraphrase, a neighbour and two unrelated probes."""
    made = []
    for number, (city, country, target) in enumerate(FACTS):
        other, its_country, _ = FACTS[number - 1]
        probes = (
            Probe("generalization", f"Which country is {city} in? It is in", target),
            Probe("neighborhood", f"The city of {other} is in", its_country),
            Probe("unrelated", "The currency of Japan is", "the yen"),
            Probe("unrelated", f"People in {its_country} speak", "German"),
        )
        made.append(Record(city, (Request(f"{city} is in", city, target, country),), probes))
    return made


@pytest.fixture(scope="session")
def requests(records):
    """The requests of the records."""
    return [record.requests[0] for record in records]


class Data(L.LightningDataModule):
    """Batches of records, for training in an order that depends on the epoch."""

    def __init__(self, records, size=4):
        super().__init__()
        self.records, self.size = records, size

    def train_dataloader(self):
        sampler = DistributedSampler(self.records, num_replicas=1, rank=0, seed=0)
        return DataLoader(self.records, self.size, sampler=sampler, collate_fn=list)

    def val_dataloader(self):
        return DataLoader(self.records, self.size, collate_fn=list)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


@pytest.fixture(scope="session")
def data():
    """``data(records, size)``: what a trainer is given."""
    return Data


@pytest.fixture
def trainer(tmp_path):
    """``trainer(**settings)``: a quiet trainer; the n-th logs to the folder ``log{n}``."""
    count = itertools.count()

    def build(**settings):
        defaults = {
            "accelerator": "cpu", "inference_mode": False, "enable_progress_bar": False,
            "enable_model_summary": False, "enable_checkpointing": False, "log_every_n_steps": 1,
            "logger": CSVLogger(tmp_path, name=f"log{next(count)}", version=""),
        }  # fmt: skip
        return L.Trainer(**{**defaults, **settings})

    return build


@pytest.fixture
def mend():
    """``mend(language_model, **settings)``: a small Mend."""

    def build(language_model, **settings):
        return built(Mend, language_model, **{"rank": 16, "lr": 1e-3, **settings})

    return build


@pytest.fixture
def ke():
    """``ke(language_model, **settings)``: a small Ke."""

    def build(language_model, **settings):
        widths = {"lstm_width": 6, "condition_width": 7, "gate_width": 5}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            adam = {"optimiser": "adam", "lr": 1e-3}
            return built(Ke, language_model, **{**widths, **adam, **settings})

    return build


@pytest.fixture
def malmen():
    """``malmen(language_model, **settings)``: a small Malmen."""

    def build(language_model, **settings):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            small = {"rank": 16, "edit_lr": 1e-2, "lr": 1e-3}
            return built(Malmen, language_model, **{**small, **settings})

    return build
