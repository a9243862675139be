import copy
from types import SimpleNamespace

import pytest

from datamodules.documents import DocumentData, FactText, facts_of
from datamodules.editing import EditingData
from datamodules.records import Probe, Record, Request

FACTS = [(f"City{i} is in", f"Land{i}") for i in range(40)]


class GivenData(EditingData):
    name = "given"

    def __init__(self, splits, **options):
        super().__init__(**options)
        self.given = splits

    def load(self):
        return self.given


def record(name, true="Italy"):
    request = Request(f"{name} is in", name, "Sweden", true)
    probes = (
        Probe("generalization", f"{name}, in", "Sweden", true),
        Probe("neighborhood", f"New {name} is in", "Norway"),
    )
    return Record(name, (request,), probes)


def records(*names):
    return [record(name) for name in names]


def prompts(text):
    return [prompt for prompt, _ in text.facts]


def module(data, tokenizer, epoch=0):
    """A data module as a trainer in ``epoch`` has it, without the trainer."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    learner = SimpleNamespace(language_model=SimpleNamespace(tokenizer=tokenizer, max_length=256))
    data.trainer = SimpleNamespace(current_epoch=epoch, lightning_module=learner)
    return data


def test_each_pass_has_each_fact_once_in_documents_of_one_to_three():
    text = FactText(FACTS, seed=3)
    documents = text.documents(5)
    sentences = [f"{part}." for document in documents for part in document[:-1].split(". ")]
    assert sorted(sentences) == sorted(f"{prompt} {answer}." for prompt, answer in FACTS)
    assert {document.count(".") for document in documents} == {1, 2, 3}
    assert text.unseen() == []


def test_a_pass_is_the_same_whenever_it_is_asked_for_and_differs_from_others():
    text = FactText(FACTS)
    assert text.documents(1) == FactText(FACTS).documents(1)
    assert text.documents(1) != text.documents(2)
    assert text.documents(1) != FactText(FACTS, seed=1).documents(1)


def test_facts_are_those_of_all_splits_and_sources_within_their_limits():
    splits = {"train": records("Oslo", "Turin", "Rome"), "val": [], "test": records("Bari", "Bonn")}
    first = GivenData(splits, train_limit=2)
    second = GivenData({"test": records("Paris", "Lyon")}, limit=1)
    text = facts_of(seed=4, first=first, second=second)
    assert text.seed == 4
    asked = [*first.records("train"), *first.records("test"), *second.records("test")]
    assert len(asked) == 2 + 2 + 1
    assert prompts(text) == [probe.prompt for r in asked for probe in r.questions]
    assert ("Oslo is in", "Italy") in text.facts
    assert ("New Oslo is in", "Norway") in text.facts


def test_facts_that_sources_contradict_each_other_on_are_left_out():
    first = GivenData({"test": [record("Oslo", "Norway")]})
    second = GivenData({"test": [record("Oslo", "Denmark")]})
    assert facts_of(first=first, second=second).facts == [("New Oslo is in", "Norway")]


def test_no_fact_at_all_is_an_error():
    with pytest.raises(ValueError, match="no source: 0 records without a true fact"):
        facts_of()
    bare = Record("0", (Request("Oslo is in", "Oslo", "Sweden"),))
    with pytest.raises(ValueError, match="odd: 1 records without a true fact; expected some"):
        facts_of(odd=GivenData({"test": [bare]}))


def test_batches_hold_whole_documents_of_like_length_and_end_with_the_end_token(tokenizer):
    text = FactText(FACTS)
    data = module(DocumentData(text, tokens_per_batch=80), tokenizer, epoch=2)
    batches = list(data.train_dataloader())
    rows = []
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape
        assert ids.numel() <= 80 or len(ids) == 1
        assert mask.sum(1).max() == ids.shape[1]
        rows += [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
        assert all(row[-1] == tokenizer.eos_token_id for row in rows)
    documents = [tokenizer.decode(row[:-1]) for row in rows]
    assert sorted(documents) == sorted(text.documents(2))
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert lengths != sorted(lengths)


def test_each_epoch_is_a_pass_of_its_own(tokenizer):
    data = DocumentData(FactText(FACTS), tokens_per_batch=200)
    first, second, again = (
        [batch["input_ids"].tolist() for batch in module(data, tokenizer, epoch).train_dataloader()]
        for epoch in (0, 1, 0)
    )
    assert first == again
    assert first != second


def test_validation_is_on_what_no_pass_contains(tokenizer):
    text = SimpleNamespace(
        documents=FactText(FACTS).documents, unseen=lambda: ["Rome is in Italy."]
    )
    [batch] = module(DocumentData(text), tokenizer).val_dataloader()
    assert tokenizer.decode(batch["input_ids"][0, :-1]) == "Rome is in Italy."
    assert module(DocumentData(FactText(FACTS)), tokenizer).val_dataloader() == []


def test_a_document_longer_than_the_model_takes_is_an_error(tokenizer):
    data = module(DocumentData(FactText([("Word " * 300, "end")])), tokenizer)
    with pytest.raises(ValueError, match=r"a document has \d+ tokens.* takes at most 256"):
        data.train_dataloader()
