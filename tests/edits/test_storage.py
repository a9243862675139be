"""Edits survive a file; a merged folder is the edited model; neither is ever left half written."""

import json
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from random_edits import as_dense, digest, double, random_edit, random_layers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from datamodules.records import Request
from edits import storage
from edits.history import Making, requests_in, without
from edits.loading import load
from edits.updates import Dense
from edits.weights import WeightEdit
from files import tensors as tensor_files
from models import LanguageModel

PROMPTS = ["Lagos is a city in", "The capital of Sweden is", "Tokyo"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@torch.no_grad()
def logits(language_model):
    batch = language_model.encode(PROMPTS, None)
    output = language_model.model(batch.input_ids, attention_mask=batch.attention_mask)
    return output.logits * batch.attention_mask[..., None]


def equal(first, second):
    return (first.editor, first.model) == (second.editor, second.model) and all(
        torch.equal(update.dense(), second.updates[name].dense())
        for name, update in first.updates.items()
    )


@pytest.mark.parametrize("count", [1, 3])
def test_an_edit_survives_a_file(language_model, tmp_path, count):
    edit = random_edit(language_model, count=count, roles=("mlp_in",))
    mixed = edit.plus(as_dense(random_edit(language_model, count=count, roles=("mlp_out",)), 0.1))
    mixed.save(tmp_path / "new" / "edit.safetensors", base=language_model.name)
    again = load(tmp_path / "new" / "edit.safetensors", language_model)
    assert equal(mixed, again) and len(again) == count
    layer = language_model.layer("mlp_out", 0)
    assert isinstance(again.updates[layer], Dense)
    assert torch.equal(again.updates[layer].bias, mixed.updates[layer].bias)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["edit.safetensors"]


def test_past_keys_survive_a_file(language_model, tmp_path):
    edit = random_edit(language_model, 2)
    name = random_layers(language_model)[2]
    edit = replace(edit, past_keys={name: torch.randn(2, 3, edit.updates[name].shape[0])})
    edit.save(tmp_path / "edit.safetensors")
    loaded = load(tmp_path / "edit.safetensors", language_model)
    assert loaded.past_keys.keys() == {name}
    assert torch.equal(loaded.past_keys[name], edit.past_keys[name])


def test_a_file_says_what_it_belongs_to(language_model, tmp_path):
    random_edit(language_model).save(tmp_path / "edit", base="tiny")
    with safe_open(tmp_path / "edit", framework="pt") as file:
        header = json.loads(file.metadata()[storage.HEADER])
    assert header["base"] == "tiny" and header["editor"] == "random"
    assert header["model"] == language_model.fingerprint
    assert header["kind"] == "weights"
    assert header["state"]["updates"] == dict.fromkeys(random_layers(language_model), "low_rank")


def test_a_file_says_what_it_makes_true_and_how_it_was_made(language_model, tmp_path):
    request = Request("Lagos is a city in", "Lagos", "Sweden", "Nigeria")
    making = Making.now("rome", [request], {"class": "Rome", "layer": 3})
    random_edit(language_model).save(tmp_path / "edit", base="tiny", history=(making,))
    owner, history = storage.about(tmp_path / "edit")
    assert (owner.editor, owner.base) == ("random", "tiny")
    assert history == (making,)
    assert datetime.fromisoformat(making.date).tzinfo is not None


def test_files_of_the_version_before_say_nothing_of_it(tmp_path):
    tensors = {"a.b.left": torch.ones(1, 2, 1), "a.b.right": torch.ones(1, 1, 2)}
    header = json.dumps({**HEAD, **UPDATES})
    save_file(tensors, tmp_path / "edit", metadata={storage.HEADER: header})
    assert storage.about(tmp_path / "edit")[1] == ()
    assert len(load(tmp_path / "edit")) == 1


def test_a_history_loses_what_is_taken_out():
    first, second, third = (Request(f"{city} is in", city, "Japan") for city in ("A", "B", "C"))
    again = Request("A is in", "A", "Chad")
    history = (Making.now("x", [first, second], {}), Making.now("y", [third, again], {}))
    assert requests_in(history) == [again, second, third]
    assert [m.requests for m in without(history, ["A is in"])] == [(second,), (third,)]
    assert without(history, [r.prompt for r in (first, second, third)]) == ()
    with pytest.raises(ValueError, match="no request of the edit has the prompt 'D is in'"):
        without(history, ["D is in"])


def test_views_of_one_tensor_and_graphs_can_be_saved(language_model, tmp_path):
    edit = random_edit(language_model, count=2)
    next(iter(edit.updates.values())).left.requires_grad_()
    edit.select(0).save(tmp_path / "edit")
    layers = dict.fromkeys(edit.updates, next(iter(edit.updates.values())))
    shared = WeightEdit(layers, "random", edit.model)
    shared.save(tmp_path / "shared")
    assert equal(shared, load(tmp_path / "shared"))


def test_a_failed_save_leaves_the_old_file(language_model, tmp_path, monkeypatch):
    path = tmp_path / "edit"
    edit = random_edit(language_model)
    edit.save(path)
    before = path.read_bytes()

    def half(tensors, file, metadata):
        file.write_bytes(before[:100])
        raise OSError("disk full")

    monkeypatch.setattr(tensor_files, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        random_edit(language_model, seed=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_edit_are_refused(language_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no edit at"):
        load(tmp_path / "missing")
    (tmp_path / "text").write_text("not an edit")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load(tmp_path / "text")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no edit: its metadata lack 'errata_edit'"):
        load(tmp_path / "other")


HEAD = {"version": 2, "kind": "weights", "editor": "e", "model": "m", "base": "b"}
UPDATES = {"state": {"updates": {"a.b": "low_rank"}}}
DAMAGED = {
    "no JSON": ("{", "is damaged: its header is not JSON"),
    "no object": ("[]", "format version None; this code reads 2 and 3"),
    "later": (
        {**HEAD, **UPDATES, "version": 99},
        "this code reads 2 and 3; it needs a newer",
    ),
    "earlier": ({**HEAD, **UPDATES, "version": 1}, "format version 1; this code reads 2 and 3$"),
    "no owner": (
        {"version": 2, "state": {}},
        "does not say whose edit it is: header.kind=null: ",
    ),
    "no state": (HEAD, "does not say whose edit it is: header.state=null: expected"),
    "unknown kind": ({**HEAD, **UPDATES, "kind": "dream"}, "unknown kind 'dream'; this code reads"),
    "no updates": ({**HEAD, "state": {}}, "an edit of e: header.updates is missing"),
    "no tensors": ({**HEAD, **UPDATES}, r"it lists 'a\.b' but lacks its tensors"),
    "unknown update": (
        {**HEAD, "state": {"updates": {"a.b": "x"}}},
        r"an edit of e: header\.updates\.a\.b=x: expected one of low_rank, dense",
    ),
    "left over": (
        {**HEAD, "state": {"updates": {"f": "dense"}}},
        "an edit of e: it has a tensor too many or too few: c.left",
    ),
    "more": (
        {**HEAD, "state": {"updates": {"f": "dense"}, "x": 1}},
        "an edit of e: header.x=1: expected nothing of this name",
    ),
    "no list": ({**HEAD, "state": {"updates": 3}}, "an edit of e: "),
    "no layer": ({**HEAD, "state": {"updates": {}}}, "needs the update of at least one layer"),
    "one factor": ({**HEAD, "state": {"updates": {"c": "low_rank"}}}, "an edit of e: "),
    "other shapes": ({**HEAD, "state": {"updates": {"d": "low_rank"}}}, "do not fit"),
    "no increments": (
        {**HEAD, "kind": "journal", "state": {"updates": {"f": "dense"}}},
        "an edit of e: header.increments is missing",
    ),
    "no models": (
        {**HEAD, "kind": "routed", "state": {"caches": [], "trained": "m"}},
        "read by the editor that made it",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_later_and_damaged_files_are_refused(tmp_path, case):
    header, message = DAMAGED[case]
    header = header if isinstance(header, str) else json.dumps(header)
    shapes = {"c.left": (1, 2, 2), "d.left": (1, 2, 2), "d.right": (1, 3, 2), "f.weight": (1, 2, 2)}
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "edit", metadata={storage.HEADER: header})
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path / "edit")
    assert str(tmp_path / "edit") in str(error.value)


def test_a_damaged_history_is_named(tmp_path):
    header = json.dumps({**HEAD, **UPDATES, "version": 3, "history": [{"editor": "e"}]})
    save_file({"x": torch.zeros(1)}, tmp_path / "edit", metadata={storage.HEADER: header})
    with pytest.raises(ValueError, match="edit is damaged: it does not say how it was made"):
        storage.about(tmp_path / "edit")


def test_files_of_the_formats_before_are_refused(tmp_path):
    for name in ("errata_weight_edit", "errata_routed_edit"):
        save_file({"x": torch.zeros(1)}, tmp_path / "old", metadata={name: "{}"})
        with pytest.raises(ValueError, match="holds no edit: its metadata lack 'errata_edit'"):
            load(tmp_path / "old")


def test_loading_for_another_model_is_refused(language_model, tiny, tmp_path):
    edit = random_edit(language_model)
    edit.save(tmp_path / "edit", base="tiny")
    other = tiny("gpt2", seed=1)
    with pytest.raises(ValueError, match=f"edit of 'tiny'.*{edit.model}.*{other.fingerprint}"):
        load(tmp_path / "edit", other)
    update = next(iter(edit.updates.values()))
    for name, reason in {
        "transformer.h.9.mlp.c_fc": "no layer",
        language_model.layer("attn_out", 0): r"update .* has shape \[32, 64\]",
    }.items():
        WeightEdit({name: update}, "random", edit.model).save(tmp_path / "wrong")
        with pytest.raises(ValueError, match=reason):
            load(tmp_path / "wrong", language_model)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_merged_folder_is_the_edited_model(tiny, family, dtype, tmp_path):
    language_model = tiny(family) if dtype == torch.float32 else double(tiny(family))
    edit, sha = random_edit(language_model), digest(language_model)
    if family != "llama":  # it has no biases
        edit = as_dense(edit, bias=0.1)
    edit.merge(language_model, tmp_path / "merged")
    assert digest(language_model) == sha
    with edit.hooks(language_model):
        edited = logits(language_model)
    merged = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=dtype, attn_implementation="eager"
    )
    again = LanguageModel(merged, language_model.tokenizer)
    tolerance = TOLERANCE[dtype] if family == "gpt2" else 1e-5  # others: float32 inside
    torch.testing.assert_close(logits(again), edited, rtol=tolerance, atol=tolerance)
    assert (edited - logits(language_model)).abs().max() > 0.01


def test_a_merged_folder_loads_by_itself_with_tied_weights_tied(language_model, tmp_path):
    edit = random_edit(language_model)
    edit.merge(language_model, tmp_path / "merged")
    loaded = LanguageModel.load(str(tmp_path / "merged"))
    embedding = loaded.model.get_input_embeddings().weight
    assert embedding.data_ptr() == loaded.model.get_output_embeddings().weight.data_ptr()
    assert torch.equal(embedding, language_model.model.get_input_embeddings().weight)
    expected = edit.edited(language_model).score(PROMPTS, ["Asia"] * 3)
    for one, other in zip(
        loaded.score(PROMPTS, ["Asia"] * 3).log_probs, expected.log_probs, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "merged").stat().st_mode & 0o755 == 0o755


def test_a_failed_merge_leaves_no_folder_and_the_weights_bit_equal(
    language_model, tmp_path, monkeypatch
):
    def full(folder):
        raise OSError("disk full")

    sha = digest(language_model)
    monkeypatch.setattr(language_model.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="disk full"):
        random_edit(language_model).merge(language_model, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []
    assert digest(language_model) == sha


def test_an_existing_folder_is_not_overwritten(language_model, tmp_path):
    edit = random_edit(language_model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for name in ("full", "full/thesis.txt"):
        with pytest.raises(ValueError, match="exists and is not an empty folder"):
            edit.merge(language_model, tmp_path / name)
    (tmp_path / "empty").mkdir()
    edit.merge(language_model, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_edits_that_cannot_be_merged_are_refused(language_model, tiny, tmp_path):
    with pytest.raises(ValueError, match="only a single edit can be merged, got 2"):
        random_edit(language_model, count=2).merge(language_model, tmp_path / "merged")
    llama = tiny("llama")
    with pytest.raises(ValueError, match=r"moves a bias; the layer has none"):
        as_dense(random_edit(llama), 0.1).merge(llama, tmp_path / "merged")
    coarse = double(language_model)
    coarse.model.bfloat16()
    with pytest.raises(ValueError, match=r"rounding to torch\.bfloat16 would lose more than 10%"):
        random_edit(coarse, scale=0.01).merge(coarse, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_edit_is_not_written(value, language_model, tmp_path):
    edit = random_edit(language_model)
    next(iter(edit.updates.values())).left[0, 0, 0] = value
    for write in (
        lambda: edit.save(tmp_path / "edit.safetensors"),
        lambda: edit.merge(language_model, tmp_path / "merged"),
        lambda: edit.export(language_model, tmp_path / "adapter"),
    ):
        with pytest.raises(ValueError, match=r"the edit of random is broken: .*left holds NaN"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_a_changed_number_is_noticed(language_model, tmp_path):
    path = tmp_path / "edit"
    random_edit(language_model).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"edit is damaged: it is not what was written"):
        load(path)


def test_numbers_that_are_none_are_refused(tmp_path):
    state = {**HEAD, "state": {"updates": {"f": "dense"}}}
    for value, message in ((torch.nan, "is broken: f.weight holds NaN or inf"), (1, "torch.int64")):
        tensors = {"f.weight": torch.full((1, 2, 2), value)}
        save_file(tensors, tmp_path / "edit", metadata={storage.HEADER: json.dumps(state)})
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "edit")
