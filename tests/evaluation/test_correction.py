"""An edit with its facts: what it did, where it goes, and what is left of it without some."""

import io
import json

import pytest
import torch
from fake_editors import Nothing
from rich.console import Console
from safetensors.torch import load_file

from datamodules.bystanders import Bystanders
from datamodules.records import Probe, Record, Request
from editors.finetune import FineTune
from edits import storage
from edits.edit import NOTHING
from edits.history import Making
from edits.journal import journaled
from edits.loading import load
from edits.updates import Dense
from edits.weights import WeightEdit
from evaluation import correction as corrections
from evaluation.check import check
from evaluation.correction import Correction
from evaluation.report import checked
from models import LanguageModel

REQUESTS = [
    Request("Lagos is a city in", "Lagos", "Sweden"),
    Request("The capital of Japan is", "Japan", "Paris | Lyon"),
]
TEXTS = ["Lagos is in Nigeria.", "Tokyo is the capital of Japan, in Asia."]


@pytest.fixture(scope="module")
def bystanders():
    return Bystanders(texts=TEXTS, limit=6)


@pytest.fixture(scope="module")
def editor(language_model):
    return FineTune(
        language_model, layers=[language_model.layer("mlp_out", 2)], objective="target", steps=40,
        lr=0.05, norm_constraint=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def correction(language_model, editor, bystanders):
    """Both requests made, one after the other."""
    edit, history = None, []
    with torch.no_grad():
        for request in REQUESTS:
            edit = journaled(editor.edit([request], edit), edit)
            history.append(Making.now("ft_m", [request], editor.identity()))
    return Correction(language_model, edit, tuple(history), bystanders=bystanders)


def test_a_check_says_what_is_said_and_what_moved(language_model, correction):
    found = correction.check()
    prompts = [request.prompt for request in REQUESTS]
    now = correction.edit.edited(language_model).generate(prompts)
    assert [fact.request.prompt for fact in found.facts] == prompts
    for fact, text, request in zip(found.facts, now, REQUESTS, strict=True):
        assert fact.request.now == text.strip().split("\n")[0].strip()
        assert fact.request.right == text.strip().startswith(request.target)
    assert any(fact.request.right for fact in found.facts)
    assert len(found.bystanders) == 6
    for said in found.bystanders:
        assert said.right or said.before != said.now
    assert found.perplexity[0] != found.perplexity[1]
    assert found.size.keys() == {"update_norm", "relative_norm"}
    assert found is correction.check()


def test_without_an_edit_nothing_moves(language_model, bystanders):
    records = [Record(str(at), (request,)) for at, request in enumerate(REQUESTS)]
    found = check(language_model, NOTHING, records, bystanders)
    assert not found.moved and len(found.missed) == len(REQUESTS)
    assert found.perplexity[0] == found.perplexity[1]
    assert all(fact.request.before == fact.request.now for fact in found.facts)


def test_paraphrases_are_counted_with_their_fact(correction, language_model, bystanders):
    first, second = REQUESTS
    paraphrases = (Probe("generalization", first.prompt, first.target),
                   Probe("generalization", "Tokyo", first.target),
                   Probe("unrelated", "Tokyo", "Japan"))  # fmt: skip
    records = [Record("a", (first,), paraphrases), Record("b", (second,))]
    found = check(language_model, correction.edit, records, bystanders)
    one, two = found.facts
    assert [said.prompt for said in one.paraphrases] == [first.prompt, "Tokyo"]
    assert one.paraphrases[0].right == one.request.right
    assert one.row()["paraphrases"] == 2 and two.row()["paraphrases"] == 0
    assert "paraphrases" in found.lines()


def test_bystanders_are_about_other_subjects():
    all_ = Bystanders().records(())
    assert len({record.requests[0].prompt for record in all_}) == len(all_) == 50
    without = Bystanders().records(["france", "Mona Lisa"])
    assert {r.requests[0].subject for r in all_} - {r.requests[0].subject for r in without} == {
        "France",
        "Mona Lisa",
    }


def test_tables_and_files_hold_what_was_found(correction, tmp_path):
    console = Console(width=160, record=True, file=io.StringIO())
    found = correction.check()
    console.print(checked.tables(found, "ft_m on tiny"))
    text = console.export_text()
    assert "Lagos is a city in" in text and "Paris | Lyon" in text
    for name, value in found.lines().items():
        assert name in text and value in text
    checked.write(found, tmp_path)
    assert len((tmp_path / "check.csv").read_text().splitlines()) == 1 + len(REQUESTS)
    kept = json.loads((tmp_path / "check.json").read_text())
    assert [fact["request"]["prompt"] for fact in kept["facts"]] == [r.prompt for r in REQUESTS]


def test_it_says_what_it_is(correction):
    text = repr(correction)
    assert text.startswith("<Correction: ft_m on tiny-gpt2 · Lagos is a city in → Sweden; ")
    assert "transformer.h.2.mlp.c_proj" in text and "update norm" in text and "tensor" not in text
    assert "tensor(" not in repr(correction.edit)


def test_a_file_says_what_it_is_for(correction, language_model, tmp_path):
    correction.save(tmp_path / "edit.safetensors")
    assert storage.about(tmp_path / "edit.safetensors")[1] == correction.history
    again = load(tmp_path / "edit.safetensors", language_model)
    assert Correction(language_model, again, correction.history).requests == REQUESTS


def test_the_last_facts_are_taken_out_to_the_bit(correction, language_model, editor):
    rest = correction.without([REQUESTS[1].prompt])
    with torch.no_grad():
        alone = editor.edit(REQUESTS[:1])
    for name, update in rest.edit.updates.items():
        assert torch.equal(update.dense(), alone.updates[name].dense())
    assert rest.requests == REQUESTS[:1]


def test_facts_with_others_on_top_are_not_taken_out(correction):
    with pytest.raises(ValueError, match="facts behind 'Lagos is a city in' were made on top of"):
        correction.without([REQUESTS[0].prompt])
    with pytest.raises(ValueError, match="nothing is left of the edit"):
        correction.without([request.prompt for request in REQUESTS])
    with pytest.raises(ValueError, match="no request of the edit has the prompt 'Oslo'"):
        correction.without(["Oslo"])


def test_facts_made_at_once_are_not_taken_out(language_model):
    edit = Nothing(language_model).edit_each(REQUESTS[:1])
    history = (Making.now("nothing", REQUESTS, {}),)
    with pytest.raises(ValueError, match="taken out of an edit of nothing: make it again"):
        Correction(language_model, edit, history).without([REQUESTS[0].prompt])


def test_two_corrections_are_one(correction, language_model):
    layer = language_model.layer("mlp_in", 0)
    zero = WeightEdit(
        {layer: Dense(torch.zeros(1, *language_model.shape(layer)))}, "zero", correction.edit.model
    )
    other = Correction(language_model, zero, (Making.now("zero", REQUESTS[:1], {}),))
    both = correction.plus(other)
    assert set(both.edit.layers) == {*correction.edit.layers, layer}
    assert [making.editor for making in both.history] == ["ft_m", "ft_m", "zero"]


@pytest.mark.parametrize("way", ["merge", "export"])
def test_folders_have_a_card(correction, language_model, tmp_path, way):
    getattr(correction, way)(tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert f"library_name: {'transformers' if way == 'merge' else 'peft'}" in text
    assert "# tiny-gpt2, with 2 facts corrected" in text
    assert "2 facts by `ft_m` on " in text
    assert "Paris \\| Lyon" in text
    for name, value in correction.check().lines().items():
        assert f"| {name} | {value} |" in text
    assert "base_model" not in text  # it is no id of the hub
    if way == "merge":
        merged = LanguageModel.load(str(tmp_path / "out"))
        prompts = [REQUESTS[0].prompt]
        assert merged.generate(prompts) == correction.edit.edited(language_model).generate(prompts)


def test_what_goes_to_the_hub(correction, tmp_path, monkeypatch):
    sent = {}

    def push(folder, repository, private):
        sent.update({file.name: file.read_bytes() for file in folder.iterdir()})
        return f"https://hub/{repository}"

    monkeypatch.setattr(corrections, "push", push)
    assert correction.push_to_hub("me/tower") == "https://hub/me/tower"
    assert sent.keys() == {"edit.safetensors", "README.md", "check.json"}
    (tmp_path / "edit.safetensors").write_bytes(sent["edit.safetensors"])
    assert load_file(tmp_path / "edit.safetensors").keys()
    assert b"library_name: errata" in sent["README.md"]
