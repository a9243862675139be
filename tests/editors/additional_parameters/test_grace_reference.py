"""GRACE against the numbers of the authors' code; see tests/golden/README.md."""

import json

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Request
from editors.additional_parameters.grace import Grace
from models import LanguageModel
from models.hooks import hooked

EXACT, TRAINED = 1e-5, 2e-2  # norm of the difference / norm; values are noise where Adam's slope is


class Recorded(Grace):
    """Starts from given values, and keeps the losses."""

    given = None

    def _first(self, requests, outputs):
        return super()._first(requests, outputs) if self.given is None else self.given[None]

    def _train(self, todo):
        (self.losses,) = super()._train(todo)


def request(prompt, answer):
    return Request(prompt, prompt, answer.strip())


def distance(got, expected):
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def after(lm, edit, prompts):
    """Next-token logits of prompts that are asked as rows of one batch."""
    (route,) = edit.routes(lm, prompts, None)
    logits = []

    def head(name, given, output):
        logits.append(output)

    with hooked({"": lm.model.get_output_embeddings()}, head):
        lm.generate(prompts, max_new_tokens=1, around=route.around)
    return logits[0]


def nearest(lm, edit, prompts):
    """Distance to each prompt's nearest key, that entry, and the one that answers it or -1."""
    table, found = edit.tables[0], []

    def look(name, given, output):
        apart = torch.cdist(given[:, -1], table.keys, compute_mode="donot_use_mm_for_euclid_dist")
        entries = edit.lookup(given[:, -1], torch.zeros(len(given), dtype=torch.long))
        found.append((*apart.min(1), entries))

    with hooked({"": lm.module(edit.layer)}, look):
        lm.generate(prompts, max_new_tokens=1)
    return found[0]


def made(lm, settings, replaced, **more):
    return Recorded(
        lm,
        layer=lm.layer("mlp_in", settings["layer"]),
        replaced=replaced,
        steps=settings["n_iter"],
        lr=settings["lr"],
        **more,
    )


@pytest.mark.parametrize("case", ["replace_last", "replace_prompt"])
def test_a_stream_of_edits(case, golden):
    folder = golden / "other_editors"
    settings = json.loads((folder / "grace.json").read_text())
    numbers = load_file(folder / "grace.safetensors")
    lm = LanguageModel.load(str(folder / "model"))
    editor = made(lm, settings, case.removeprefix("replace_"), radius=settings["eps_init"])
    wanted, edit = settings["cases"][case], None
    for number, (step, log) in enumerate(zip(wanted["steps"], wanted["codebook_log"], strict=True)):
        editor.given = numbers["inputs/value_init"][step["stream_index"]]
        edit = editor.edit([request(step["prompt"], step["answer"])], after=edit)
        expected = {
            n: numbers[f"expected/{case}/step_{number:02d}/{n}"]
            for n in ("keys", "values", "radii")
        }
        table = edit.tables[0]
        assert [list(table.labels[born]) for born in table.born] == log["labels"]
        assert table.last[log["chosen_entry"]] == number
        assert distance(table.keys, expected["keys"]) < EXACT
        assert distance(table.radii, expected["radii"]) < EXACT
        assert distance(table.answers, expected["values"]) < TRAINED
        ends = editor.losses[0], editor.losses[-1]
        assert ends == pytest.approx(log["loss_first_last"], rel=2e-2, abs=2e-2)
    for number, lookup in enumerate(wanted["lookups"]):
        prefix = f"expected/{case}/lookup_{number}"
        apart, entry, inside = nearest(lm, edit, [lookup["prompt"]])
        assert distance(apart, numbers[f"{prefix}/distance"]) < EXACT
        assert (int(entry), bool(inside >= 0)) == (lookup["nearest_entry"], lookup["hit"])
        (logits,) = after(lm, edit, [lookup["prompt"]])
        assert distance(logits, numbers[f"{prefix}/logits"]) < (TRAINED if lookup["hit"] else 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["replace_all_warm", "replace_last_warm"])
def test_a_warm_start_and_rows_of_one_batch(case, dtype, golden):
    lm, settings, numbers = more(golden, dtype)
    replaced = case.removeprefix("replace_").removesuffix("_warm")
    editor = made(lm, settings, replaced, radius=settings["eps"], initial="warm")
    edit, close = None, {"float32": TRAINED, "float64": 1e-6}[dtype]
    for number, (prompt, answer) in enumerate(settings["stream"]):
        edit = editor.edit([request(prompt, answer)], after=edit)
        table, prefix = edit.tables[0], f"expected/{case}/step_{number}"
        assert distance(table.keys, numbers[f"{prefix}/keys"]) < EXACT
        assert distance(table.radii, numbers[f"{prefix}/radii"]) < EXACT
        assert distance(table.answers, numbers[f"{prefix}/values"]) < close
        assert distance(torch.tensor(editor.losses), numbers[f"{prefix}/losses"]) < close
    apart, entry, inside = nearest(lm, edit, settings["batch"])
    prefix = f"expected/{case}/batch"
    assert distance(apart, numbers[f"{prefix}/distance"]) < EXACT
    assert torch.equal(entry, numbers[f"{prefix}/entry"])
    assert torch.equal((inside >= 0).long(), numbers[f"{prefix}/inside"].long())
    assert distance(after(lm, edit, settings["batch"]), numbers[f"{prefix}/logits"]) < close


def test_where_both_entries_of_one_query_would_be_dead_the_later_one_stands(golden):
    """The authors' code gives them balls of no size; see `edits.deferral`."""
    lm, settings, numbers = more(golden, "float64")
    editor = made(lm, settings, "last", radius=settings["eps"], initial="warm")
    prompt, old, new = settings["same"]
    prefix = "expected/same_query_new_label"
    first = editor.edit([request(prompt, old)])
    assert distance(first.tables[0].answers, numbers[f"{prefix}/step_0/values"]) < 1e-6
    assert len(numbers[f"{prefix}/step_1/losses"].unique()) == 1  # theirs learns nothing
    second = editor.edit([request(prompt, new)], after=first)
    assert len(second.tables[0]) == 1
    assert editor.losses[-1] < editor.losses[0]
    assert second.edited(lm).score([prompt], [new]).exact() == [True]


def more(golden, dtype):
    folder = golden / "memories"
    suffix = {"float32": "", "float64": "_fp64"}[dtype]
    settings = json.loads((folder / "grace_more.json").read_text())["settings"]
    numbers = load_file(folder / f"grace_more{suffix}.safetensors")
    return LanguageModel.load(str(golden / "other_editors/model"), dtype), settings, numbers
