from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import pytest
import torch
from fake_editors import Noise, Nothing, make_records
from torch import nn

from datamodules.records import fingerprint
from datamodules.text import TextCorpus
from editors.trained import TrainedEditor
from evaluation.folder import RunFolder
from files import write_whole

COST = {"edits": 1}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.json"
    write_whole(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n"

    def half(self, content):
        self.touch()
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "other")
    assert path.read_text(encoding="utf-8") == "ä\n"
    assert list(path.parent.iterdir()) == [path]


def test_chunks_come_back_in_the_order_of_the_records(tmp_path):
    folder = RunFolder(tmp_path)
    for chunk in (10, 2, 0):
        folder.add("mend", chunk, [{"record": f"{chunk}-{at}"} for at in range(2)], COST)
    names = [line["record"] for line in folder.lines("mend")]
    assert names == ["0-0", "0-1", "2-0", "2-1", "10-0", "10-1"]
    assert folder.has("mend", 2)
    assert not folder.has("mend", 1)
    assert not folder.has("rome", 2)
    assert folder.costs("mend") == [COST] * 3


def test_costs_of_a_chunk_whose_answers_were_not_written_do_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add("mend", 0, [], COST)
    (tmp_path / "costs" / "mend" / "000001.json").write_text("{}")
    assert folder.costs("mend") == [COST]


def test_editors_are_added_in_order(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim({"data": "d", "editors": {"b": {"lr": 1}}})
    folder.claim({"data": "d", "editors": {"a": {}}})
    folder.claim({"data": "d", "editors": {"c": {}}}, write=False)
    assert folder.editors == ["b", "a"]
    with pytest.raises(ValueError, match=r"\(editors\.b\.lr: 1 there, 2 here\)"):
        folder.claim({"data": "d", "editors": {"b": {"lr": 2}}})
    with pytest.raises(ValueError, match=r"\(data: 'd' there, 'e' here\)"):
        folder.claim({"data": "e", "editors": {"b": {"lr": 1}}})


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run\.json is not there"):
        RunFolder(tmp_path).editors  # noqa: B018


def test_other_records_have_another_digest():
    records = make_records(3)
    digest = fingerprint(records)
    assert fingerprint(make_records(3)) == digest
    assert fingerprint(records[::-1]) != digest
    assert fingerprint([*records[:2], replace(records[2], probes=())]) != digest


@dataclass(frozen=True)
class Settings:
    lr: float
    layers: tuple[int, ...]


class Set(Nothing):
    def __init__(self, language_model, *, settings=None, corpus=None):
        super().__init__(language_model)
        self.settings, self.corpus = settings, corpus


def test_an_editor_is_its_class_and_plain_settings(language_model):
    editor = Set(language_model, settings=Settings(0.1, (1, 2)))
    editor.tensor = torch.ones(2)
    assert editor.identity() == {
        "class": "Set",
        "settings": {"lr": 0.1, "layers": [1, 2]},
        "corpus": None,
    }


def test_an_editor_stays_itself_once_it_is_prepared(language_model):
    editor = Noise(language_model, strength=2.0)
    identity = editor.identity()
    editor.edit_each([record.requests[0] for record in make_records(2)])
    assert editor.preparations
    assert editor.identity() == identity


def test_an_editor_is_its_corpus_too(language_model):
    def identity(text):
        return Set(language_model, corpus=TextCorpus([text])).identity()

    assert identity("Paris is in France.") != identity("Tokyo.")
    assert identity("Tokyo.") == identity("Tokyo.")


class Trained(Noise, TrainedEditor):
    def __init__(self, language_model):
        L.LightningModule.__init__(self)
        Noise.__init__(self, language_model, strength=1.0)
        self.weight = nn.Parameter(torch.zeros(2))


def test_a_trained_editor_is_also_what_it_has_learned(language_model):
    editor, other = Trained(language_model), Trained(language_model)
    assert editor.identity() == other.identity()
    other.weight.data += 1
    assert editor.identity()["tensors"] != other.identity()["tensors"]


def test_what_lightning_keeps_is_not_the_editor_s(language_model):
    assert Trained(language_model).identity().keys() == {"class", "tensors"}


@pytest.mark.parametrize("cut", [0, 1, 10, -2])
@pytest.mark.parametrize("kind", ["answers/mend/000001.jsonl", "costs/mend/000001.json"])
def test_a_chunk_that_is_cut_is_not_finished(cut, kind, tmp_path):
    folder = RunFolder(tmp_path)
    for chunk in range(3):
        folder.add("mend", chunk, [{"record": str(at)} for at in range(2)], COST)
    path = tmp_path / kind
    path.write_bytes(path.read_bytes()[:cut])
    assert [folder.has("mend", chunk) for chunk in range(3)] == [True, False, True]
    for read in (folder.lines, folder.costs):
        with pytest.raises(ValueError, match=r"000001\.jsonl is cut or changed, or its costs"):
            list(read("mend"))
    folder.claim({"editors": {"mend": {}}})
    assert len(list(folder.lines("mend"))) == 4
    assert folder.costs("mend") == [COST] * 2


@pytest.mark.parametrize("kind", ["answers/mend/000000.jsonl", "costs/mend/000000.json"])
def test_a_changed_value_is_no_answer(kind, tmp_path):
    """Whichever byte it is; what is changed is not counted, but done again."""
    folder, path = RunFolder(tmp_path), tmp_path / kind
    folder.add("mend", 0, [{"record": "a", "exact_match": 0.0}], COST)
    whole = path.read_bytes()
    for place in range(len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not folder.has("mend", 0), place
        with pytest.raises(ValueError, match=r"000000\.jsonl is cut or changed, or its costs"):
            list(folder.lines("mend"))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"editors": 1}'])
def test_a_damaged_run_is_named(text, tmp_path):
    (tmp_path / "run.json").write_text(text)
    for read in (lambda f: f.editors, lambda f: f.claim({"editors": {}})):
        with pytest.raises(ValueError, match=r"run\.json is damaged: "):
            read(RunFolder(tmp_path))
