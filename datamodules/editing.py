"""The data module all sources of records share: splits by subject, order, loaders."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import lightning as L
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, DistributedSampler

from datamodules.batches import as_dataset
from datamodules.order import Order, ResumableLoader
from datamodules.reading import Fields, Reading, collect, fetch, read_rows
from datamodules.records import Record
from datamodules.traps import checked

SPLITS = ("train", "val", "test")


class EditingData(L.LightningDataModule, ABC):
    """Batches are plain lists of Records. A source of records says what it is by ``load``.

    No subject of the test split is in train or val, and none of val in train, regardless of case:
    records that break this are dropped from the lesser split and counted in ``dropped``.
    (The subjects of requests count, of all that a record has; a neighbour's probe may still mention
    one of test.)

    Val and test come in an order drawn from ``seed``, so that the first n of it are the same
    records whatever ``limit`` is; train comes as loaded, and its loader shuffles it every epoch.

    Args:
        batch_size: records a batch, on each device.
        limit: records of val and of test to use, at most; None for all.
        train_limit: records of train to use, at most; None for all.
        seed: of the order, the shuffling and whatever a source draws.
    """

    name: str = "records"
    """The data set's name in result rows."""

    def __init__(
        self,
        *,
        batch_size: int = 1,
        limit: int | None = None,
        train_limit: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.batch_size = _positive("batch_size", batch_size)
        self.limit = None if limit is None else _positive("limit", limit)
        self.train_limit = None if train_limit is None else _positive("train_limit", train_limit)
        self.seed = seed
        self.dropped: dict[str, int] = {}
        self._splits: dict[str, list[Record]] | None = None

    @abstractmethod
    def load(self) -> Mapping[str, Sequence[Record]]:
        """The records of each split (train, val, test); a split may be missing or empty."""

    def records(self, split: str, limit: int | None = None) -> list[Record]:
        """The records of a split, in order; ``limit`` goes before the data module's own.

        Raises:
            ValueError: there is no such split, or nothing in it.
        """
        limit = self.limit_of(split) if limit is None else _positive("limit", limit)
        return self.ordered(split)[:limit]

    def limit_of(self, split: str) -> int | None:
        """How many records of a split are used at most; None: all."""
        return self.train_limit if split == "train" else self.limit

    def ordered(self, split: str) -> list[Record]:
        """All records of a split, in order; errors as of `records`."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r} in {self.name}; expected {', '.join(SPLITS)}")
        records = list(self.splits().get(split, ()))
        if not records:
            raise ValueError(f"{self.name}: split {split!r} is empty: {self.why_empty(split)}")
        if split != "train":
            random.Random(f"{self.seed}-{split}").shuffle(records)
        return records

    def splits(self) -> dict[str, list[Record]]:
        """The records of each split as loaded, without those dropped; loads them once, and logs."""
        if self._splits is None:
            loaded = self.load()
            self._splits = disjoint(loaded)
            self.dropped = {
                name: len(loaded[name]) - len(records) for name, records in self._splits.items()
            }
            sizes = ", ".join(f"{len(records):,} {name}" for name, records in self._splits.items())
            dropped = ", ".join(f"{n:,} {name}" for name, n in self.dropped.items() if n)
            note = f"; dropped for subjects of a better split: {dropped}" if dropped else ""
            rank_zero_info(f"{self.name}: {sizes}{note}")
        return self._splits

    def why_empty(self, split: str) -> str:
        """Why there is nothing in a split, for the error that says so."""
        if self.dropped.get(split):
            return f"all its {self.dropped[split]:,} records have subjects of a better split"
        return "no records were given for it"

    def prepare_data(self) -> None:
        """Fetches the files once a machine, before any other process needs them."""
        self.splits()

    def setup(self, stage: str | None = None) -> None:
        """Loads the records."""
        self.splits()

    def train_dataloader(self) -> DataLoader:
        """Shuffled anew each epoch, from ``seed`` and the epoch only; resumed inside one."""
        records, processes, rank = self._shared("train")
        share = {"num_replicas": processes, "rank": rank}
        order = Order(records, self._trained, **share, seed=self.seed, drop_last=True)
        return ResumableLoader(as_dataset(records), self.batch_size, sampler=order, collate_fn=list)

    def val_dataloader(self) -> DataLoader:
        """In order; uneven shares are evened by repeats, since DDP syncs each validation step."""
        return self._loader("val", DistributedSampler)

    def test_dataloader(self) -> DataLoader:
        """In order, each record once, however many processes share the work."""
        return self._loader("test", UnrepeatedDistributedSampler)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        """Records hold text only: they stay where they are."""
        return batch

    def _trained(self) -> int:
        """Records of the epoch that this process has trained on; above 0 where a run goes on."""
        if not self.trainer:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready * self.batch_size

    def _loader(self, split: str, sampler: type[DistributedSampler]) -> DataLoader:
        records, processes, rank = self._shared(split)
        dataset = as_dataset(records)
        order = sampler(dataset, num_replicas=processes, rank=rank, shuffle=False)
        return DataLoader(dataset, self.batch_size, sampler=order, collate_fn=list)

    def _shared(self, split: str) -> tuple[list[Record], int, int]:
        """The records of a split, how many processes share them, and which of these this one is."""
        records = self.records(split)
        processes = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        if len(records) < processes:
            raise ValueError(
                f"{self.name}: split {split!r} has {len(records)} records for {processes} processes"
            )
        return records, processes, rank


class FileData(EditingData):
    """Records from files, each a path, a URL or a hub id (``reading.fetch``).

    A format is the method `record`, and `begin` where one record needs the others. Ids are the
    file's name and the record's index in it: ``counterfact-17``.

    ``test`` alone is evaluated whole. ``train`` gives up ``val_share`` and ``test_share`` of its
    subjects, drawn by ``seed``, for those of the other two that have no file of their own. With no
    file at all, those of ``published`` are used.

    Args:
        train: file of the train split, and of those without their own.
        val: file of the val split.
        test: file of the test split.
        val_share: share of train's subjects, in 0..1.
        test_share: share of train's subjects, in 0..1.
        drop_named_target: leave out one-hop questions that name the new target; see `traps`.
        **options: as EditingData takes them.
    """

    published: ClassVar[Mapping[str, str]]
    """The authors' file of each split that has one."""

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        *,
        val_share: float = 0.1,
        test_share: float = 0.1,
        drop_named_target: bool = True,
        **options,
    ):
        super().__init__(**options)
        if min(val_share, test_share) < 0 or val_share + test_share >= 1:
            raise ValueError(
                f"val_share {val_share} and test_share {test_share}; "
                "expected shares in 0..1 that leave some to train"
            )
        files = {"train": train, "val": val, "test": test}
        self.files = {split: file for split, file in files.items() if file} or self.published
        self.shares = {"val": val_share, "test": test_share}
        self.drop_named_target = drop_named_target
        self.readings: dict[str, Reading] = {}

    def begin(self, rows: Sequence[object]) -> None:
        """Sees all values of a file before the first record of it is built; by default nothing."""

    @abstractmethod
    def record(self, id: str, fields: Fields) -> Record:
        """The record of one object of a file.

        Raises:
            RecordError: it cannot be used; it is left out, and named in the log.
        """

    def read(self, source: str | Path) -> Reading:
        """Reads one file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not of this format: not one record of it can be used.
        """
        path = fetch(source)
        rows = read_rows(path)
        self.begin(rows)

        def build(at: int, fields: Fields) -> Record:
            record = self.record(f"{path.stem}-{at}", fields)
            return checked(record, fields.trace, self.drop_named_target)

        return collect(path, rows, build, self.name)

    def load(self) -> dict[str, list[Record]]:
        """Reads the files, and splits ``train`` for the splits that have none."""
        splits = {split: self._read(file) for split, file in self.files.items()}
        shares = {split: share for split, share in self.shares.items() if split not in splits}
        if "train" in splits:
            splits |= split_by_subject(splits["train"], shares, self.seed)
        return splits

    def _read(self, source: str) -> list[Record]:
        self.readings[source] = reading = self.read(source)
        rank_zero_info(f"{self.name}: {source}: {reading.summary()}")
        return reading.records

    def why_empty(self, split: str) -> str:
        """Why there is nothing in a split, for the error that says so."""
        if split in self.files:
            return super().why_empty(split)
        if "train" not in self.files:
            return f"no file {split}=... was given, nor train=... to split it from"
        share = self.shares.get(split)
        return f"its share of the subjects of {self.files['train']} is {share}"


def split_by_subject(
    records: Sequence[Record], shares: Mapping[str, float], seed: int
) -> dict[str, list[Record]]:
    """Draws a share (0..1) of the subjects for each split of ``shares``; the rest is ``train``.

    A share above 0 gets one subject at least, as long as there are any; records keep their order.
    Subjects that a record has together are drawn together, as one.
    """
    family = families(records)
    subjects = sorted(set(family.values()))
    random.Random(f"{seed}-subjects").shuffle(subjects)
    owner = {}
    total = len(subjects)
    for split, share in shares.items():
        for _ in range(min(len(subjects), max(round(share * total), share > 0))):
            owner[subjects.pop()] = split
    splits = {split: [] for split in ("train", *shares)}
    for record in records:
        splits[owner.get(family[min(record.subjects)], "train")].append(record)
    return splits


def families(records: Sequence[Record]) -> dict[str, str]:
    """For each subject the one that stands for all that records join with it, one to the next."""
    parent = {subject: subject for record in records for subject in record.subjects}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            parent[subject] = subject = parent[parent[subject]]
        return subject

    for record in records:
        first, *others = sorted(map(root, record.subjects))
        parent.update(dict.fromkeys(others, first))
    return {subject: root(subject) for subject in parent}


def disjoint(splits: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """The splits without the records that share a subject with a better one.

    Test is the best one, then val, then train.

    Raises:
        ValueError: an id stands for two of the records.
    """
    subjects, ids, remaining = set(), set(), {}
    for split in reversed(SPLITS):
        if split not in splits:
            continue
        remaining[split] = [
            record for record in splits[split] if subjects.isdisjoint(record.subjects)
        ]
        subjects.update(*(record.subjects for record in remaining[split]))
        for record in remaining[split]:
            if record.id in ids:
                raise ValueError(f"id {record.id!r} occurs twice; do two files have one name?")
            ids.add(record.id)
    return {split: remaining[split] for split in SPLITS if split in remaining}


def _positive(argument: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{argument} is {value}; expected at least 1")
    return value
