import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from datamodules.counterfact import CounterFactData
from datamodules.documents import known_facts
from datamodules.editing import (
    EditingData,
    FileData,
    disjoint,
    families,
    split_by_subject,
)
from datamodules.records import Probe, Record, Request


def record(index, subject=None, name="r"):
    subject = subject or f"City{index}"
    return Record(f"{name}-{index}", (Request(f"{subject} is in", subject, "Sweden", "Italy"),))


class GivenData(EditingData):
    name = "given"

    def __init__(self, splits, **options):
        super().__init__(**options)
        self.given = splits

    def load(self):
        return self.given


@pytest.fixture
def splits():
    return {
        "train": [record(i, name="train") for i in range(7)],
        "val": [record(10 + i, name="val") for i in range(5)],
        "test": [record(20 + i, name="test") for i in range(5)],
    }


@pytest.fixture
def file(tmp_path):
    def file(name, subjects):
        rows = [
            {
                **{"prompt": f"{subject} is in", "subject": subject, "target_new": "Sweden"},
                **{"ground_truth": "Italy", "rephrase_prompt": f"{subject}, in"},
                **{"locality_prompt": "Turin is in", "locality_ground_truth": "Italy"},
            }
            for subject in subjects
        ]
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return str(path)

    return file


def subjects(records):
    return {record.requests[0].subject.lower() for record in records}


def ids(records):
    return [record.id for record in records]


def flat(batches):
    return [record for batch in batches for record in batch]


def test_no_subject_of_a_split_is_in_a_lesser_one():
    splits = {
        "train": [record(0, "Lagos"), record(1, "Turin"), record(2, "Kano"), record(3, "Kano")],
        "val": [record(4, "LAGOS"), record(5, "kano")],
        "test": [record(6, "lagos")],
    }
    data = GivenData(splits)
    assert ids(data.records("train")) == ["r-1"]
    assert ids(data.records("val")) == ["r-5"]
    assert ids(data.records("test")) == ["r-6"]
    assert data.dropped == {"train": 3, "val": 1, "test": 0}


def test_an_id_stands_for_one_record():
    with pytest.raises(ValueError, match="id 'r-1' occurs twice"):
        disjoint({"train": [record(1, "Lagos")], "test": [record(1, "Kano")]})


def test_limits_take_the_first_of_one_seeded_order(splits):
    whole = ids(GivenData(splits).records("test"))
    assert sorted(whole) == ids(splits["test"])
    assert whole != ids(splits["test"])
    for limit in (1, 3, 99):
        data = GivenData(splits, limit=limit)
        assert ids(data.records("test")) == whole[:limit]
        assert ids(data.records("train")) == ids(splits["train"])
    assert ids(GivenData(splits, limit=1).records("test", limit=4)) == whole[:4]
    assert ids(GivenData(splits).records("train", limit=2)) == ["train-0", "train-1"]
    assert ids(GivenData(splits, seed=1).records("test")) != whole
    data = GivenData(splits, train_limit=3)
    assert ids(data.records("train")) == ["train-0", "train-1", "train-2"]
    assert ids(data.records("test")) == whole


def test_numbers_are_checked(splits):
    for options in ({"limit": 0}, {"train_limit": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is 0; expected at least 1"):
            GivenData(splits, **options)
    with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
        GivenData(splits).records("test", limit=0)


def test_an_empty_split_says_why(splits, file):
    with pytest.raises(ValueError, match="no split 'dev' in given; expected train, val, test"):
        GivenData(splits).records("dev")
    with pytest.raises(ValueError, match="given: split 'val' is empty: no records were given"):
        GivenData({"train": splits["train"], "val": []}).records("val")
    twice = {"train": [record(0, "Lagos")], "test": [record(1, "Lagos")]}
    with pytest.raises(ValueError, match="'train' is empty: all its 1 records have subjects of"):
        GivenData(twice).records("train")
    only = file("only.json", ["Lagos", "Kano"])
    with pytest.raises(ValueError, match=r"'train' is empty: no file train=\.\.\. was given"):
        CounterFactData(test=only).records("train")
    with pytest.raises(ValueError, match=r"'val' is empty: its share of the subjects of .* is 0"):
        CounterFactData(train=only, val_share=0).records("val")


def test_one_file_is_split_by_subject(file):
    names = [f"City{i}" for i in range(20)]
    path = file("one.json", names + [name.upper() for name in names])
    data = CounterFactData(path, val_share=0.2, test_share=0.1)
    parts = {split: data.records(split) for split in ("train", "val", "test")}
    assert {split: len(records) for split, records in parts.items()} == dict(
        train=28, val=8, test=4
    )
    assert len({name for records in parts.values() for name in ids(records)}) == 40
    assert not subjects(parts["train"]) & subjects(parts["val"] + parts["test"])
    assert not subjects(parts["val"]) & subjects(parts["test"])
    again = CounterFactData(path, val_share=0.2, test_share=0.1)
    assert ids(again.records("val")) == ids(parts["val"])
    other = CounterFactData(path, val_share=0.2, test_share=0.1, seed=1)
    assert subjects(other.records("val")) != subjects(parts["val"])


def test_given_files_are_used_whole(file):
    train = file("train.json", [f"City{i}" for i in range(20)])
    test = file("test.json", ["Lagos", "CITY3"])
    data = CounterFactData(train, test=test)
    assert len(data.records("test")) == 2
    assert len(data.records("val")) == 2
    assert len(data.records("train")) + data.dropped["train"] + data.dropped["val"] == 18
    assert len(CounterFactData(test=test).records("test")) == 2


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5)])
def test_shares_are_checked(shares):
    with pytest.raises(ValueError, match=r"expected shares in 0\.\.1 that leave some to train"):
        CounterFactData("a", val_share=shares[0], test_share=shares[1])


def test_a_share_gets_a_subject_at_least():
    parts = split_by_subject([record(i) for i in range(3)], {"val": 0.01, "test": 0.01}, 0)
    assert {split: len(records) for split, records in parts.items()} == {
        **{"train": 1, "val": 1, "test": 1},
    }


def test_real_files_stay_disjoint(shared):
    folder = shared / "data" / "counterfact"
    data = CounterFactData(
        str(folder / "counterfact_train.json"), test=str(folder / "counterfact_val.json")
    )
    rows, test_rows = (
        json.loads((folder / f"counterfact_{name}.json").read_text()) for name in ("train", "val")
    )
    test = {row["subject"].lower() for row in test_rows}
    clashing = sum(row["subject"].lower() in test for row in rows)
    assert data.dropped == {} and clashing > 0
    assert not subjects(data.records("train")) & (test | subjects(data.records("val")))
    assert not subjects(data.records("val")) & test
    assert data.dropped["train"] + data.dropped["val"] == clashing
    assert len(data.records("train")) + len(data.records("val")) == 10_000 - clashing
    assert len(data.records("test")) == 1_919


def test_loaders_yield_lists_of_records(splits):
    data = GivenData(splits, batch_size=2)
    batches = list(data.test_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert flat(batches) == data.records("test")
    assert flat(data.val_dataloader()) == data.records("val")
    seen = flat(data.train_dataloader())
    assert sorted(ids(seen)) == ids(splits["train"])
    assert ids(seen) != ids(splits["train"])


def of_processes(splits, loader, processes):
    data = [GivenData(splits) for _ in range(processes)]
    for rank, module in enumerate(data):
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        module.trainer = SimpleNamespace(
            world_size=processes, global_rank=rank, fit_loop=trainer.fit_loop
        )
    return [ids(flat(getattr(module, loader)())) for module in data]


def test_processes_share_the_test_records_without_repeats(splits):
    first, second = of_processes(splits, "test_dataloader", 2)
    assert (len(first), len(second)) == (3, 2)
    assert sorted(first + second) == ids(splits["test"])


def test_processes_take_equal_shares_in_training_and_validation(splits):
    first, second = of_processes(splits, "train_dataloader", 2)
    assert (len(first), len(second)) == (3, 3)
    assert not set(first) & set(second)
    first, second = of_processes(splits, "val_dataloader", 2)
    assert (len(first), len(second)) == (3, 3)
    assert set(first + second) == set(ids(splits["val"]))


def test_fewer_records_than_processes_is_an_error(splits):
    with pytest.raises(ValueError, match="split 'test' has 5 records for 6 processes"):
        of_processes(splits, "test_dataloader", 6)


class Diary(L.LightningModule):
    """Writes down which records it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, index):
        self.seen["train"].append((self.current_epoch, *ids(batch)))
        return self.weight**2

    def validation_step(self, batch, index):
        self.seen["val"] += ids(batch)

    def test_step(self, batch, index):
        self.seen["test"] += ids(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(splits, folder, epochs, checkpoint=None):
    diary = Diary()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    data = GivenData(splits, batch_size=2)
    trainer.fit(diary, data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    trainer.test(diary, data, verbose=False)
    return diary.seen


def test_a_resumed_training_sees_what_a_straight_one_sees(splits, tmp_path):
    straight = trained(splits, tmp_path, 2)
    first = trained(splits, tmp_path, 1)
    resumed = trained(splits, tmp_path, 2, tmp_path / "last.ckpt")
    assert first["train"] + resumed["train"] == straight["train"]
    epochs = [[day[1:] for day in straight["train"] if day[0] == epoch] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert straight["test"] == ids(GivenData(splits).records("test"))
    assert straight["val"] == 2 * ids(GivenData(splits).records("val"))


def test_known_facts_are_those_before_the_edit():
    request = Request("Lagos is in", "Lagos", "Sweden", "Nigeria")
    probes = (
        Probe("generalization", "Lagos, in", "Sweden", "Nigeria"),
        Probe("neighborhood", "Kano is in", "Nigeria", "Sweden"),
        Probe("unrelated", "Who wrote Hamlet?", "Shakespeare"),
        Probe("one_hop", "The capital of the country of Lagos is", "Stockholm"),
    )
    again = Record("b", (Request("Kano is in", "Kano", "Italy", "Nigeria"),))
    unknown = Record("c", (Request("Turin is in", "Turin", "Italy"),), probes[2:3])
    assert known_facts([Record("a", (request,), probes), again, unknown]) == [
        ("Lagos is in", "Nigeria"),
        ("Lagos, in", "Nigeria"),
        ("Kano is in", "Nigeria"),
        ("Who wrote Hamlet?", "Shakespeare"),
    ]


def test_contradictions_are_no_known_facts():
    records = [
        Record(land, (Request("Turkey is in", "Turkey", "Africa", land),))
        for land in ("Asia", "Europe")
    ]
    assert known_facts(records) == []


def several(name, *subjects):
    requests = tuple(Request(f"{one} is in", one, "Sweden", "Italy") for one in subjects)
    return Record(name, requests)


CHAINED = [
    several("a", "Lagos", "Kano"),
    several("b", "Turin"),
    several("c", "KANO", "Oslo"),
    several("d", "Bern", "Oslo"),
    several("e", "Rome"),
]


def test_subjects_that_records_join_are_drawn_together():
    drawn = set()
    for seed in range(9):
        splits = split_by_subject(CHAINED, {"val": 0.3, "test": 0.3}, seed)
        parts = [ids(records) for records in splits.values()]
        assert sorted(parts) == [["a", "c", "d"], ["b"], ["e"]]
        assert disjoint(splits) == splits
        drawn.add(tuple(map(tuple, parts)))
    assert len(drawn) > 1


def test_families_are_named_by_one_of_their_subjects():
    assert families(CHAINED) == {
        **dict.fromkeys(("lagos", "kano", "oslo", "bern"), "bern"),
        **{"turin": "turin", "rome": "rome"},
    }


def test_a_record_that_shares_one_subject_of_several_with_a_better_split_is_dropped():
    kept = disjoint({"train": CHAINED[:2], "test": CHAINED[2:3]})
    assert {split: ids(records) for split, records in kept.items()} == {
        "train": ["b"],
        "test": ["c"],
    }


def test_the_known_facts_of_several_requests_are_those_of_each():
    probes = (
        Probe("generalization", "Kano, in", "Sweden", "Nigeria"),
        Probe("generalization", "Turin, in", "Sweden"),
        Probe("kept_objects", "A neighbour of Nigeria is", "Niger"),
    )
    requests = (
        Request("Kano is in", "Kano", "Sweden", "Nigeria"),
        Request("Turin is in", "Turin", "Sweden"),
    )
    assert known_facts([Record("a", requests, probes)]) == [
        ("Kano is in", "Nigeria"),
        ("Kano, in", "Nigeria"),
        ("A neighbour of Nigeria is", "Niger"),
    ]


class OneMethod(FileData):
    name, published = "own", {}

    def record(self, id, fields):
        target, *_ = fields.answers("new")
        return Record(id, (Request(fields.text("ask"), fields.text("who"), target),))


def test_a_format_is_one_method(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(
        '{"ask": "Lagos is in", "who": "Lagos", "new": [["Sweden", "SE"]]}\n{"new": "x"}\n'
    )
    reading = OneMethod().read(path)
    [record] = reading.records
    assert (record.id, record.requests[0].target) == ("own-0", "Sweden")
    assert [(one.index, one.field) for one in reading.left_out] == [(1, "ask")]
    assert OneMethod(test=str(path)).records("test") == [record]
