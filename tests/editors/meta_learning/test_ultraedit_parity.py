"""UltraEdit's statistics, changes and updates are those of the authors' code, turn after turn."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from editors.meta_learning.factors import Factors, factors
from editors.meta_learning.sums import sums_of
from editors.meta_learning.ultraedit import UltraEdit
from models import Batch, LanguageModel

FILES = {"ultraedit": (1e-3, torch.float32), "ultraedit_fp64": (1e-9, torch.float64)}


@pytest.fixture(scope="module", params=FILES)
def case(request, golden):
    tolerance, dtype = FILES[request.param]
    folder = golden / "memories"
    tensors = load_file(folder / f"{request.param}.safetensors")
    described = json.loads((folder / "ultraedit.json").read_text())
    vocabulary = Tokenizer(models.WordLevel({"end": 0}, unk_token="end"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="end")
    model = AutoModelForCausalLM.from_pretrained(
        golden / "other_editors" / "model", dtype=dtype, attn_implementation="eager"
    )
    return tensors, described, LanguageModel(model, tokenizer), tolerance


def editor_of(language_model, settings):
    return UltraEdit(
        language_model,
        layers=settings["modules"],
        lr=settings["lr"],
        variance="chunks",
        edits_per_batch=settings["batch_size"],
    )


def close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    error = (ours - theirs).norm() / theirs.norm()
    assert error <= tolerance, f"error {error:.1e}, allowed {tolerance:.0e}"


def whole(update):
    return update.weight[0] if update.kind == "dense" else (update.left @ update.right)[0]


def batch_of(given):
    """Their labels say what the token at the same place predicts; ours stand behind it."""
    ids, mask, labels = (
        torch.tensor(given[name]) for name in ("input_ids", "attention_mask", "labels")
    )
    ours = torch.nn.functional.pad(labels, (1, 0), value=-100)
    ids, mask = (torch.nn.functional.pad(x, (0, 1)) for x in (ids, mask))
    ids = torch.where(ours >= 0, ours, ids)
    return Batch(ids, torch.where(ours >= 0, 1, mask), ours)


def rows_of(language_model, layers, given):
    """Rows of the mean over a batch's tokens, where ours are of each request's mean."""
    batch = batch_of(given)
    counts = (batch.labels != -100).sum(1)
    found = factors(language_model, layers, batch, tokens="target")
    share = counts.double() / counts.sum()
    return {
        layer: Factors(
            rows.keys, (rows.deltas * share[rows.request, None]).to(rows.keys), rows.request, 2
        )
        for layer, rows in found.items()
    }


def joined(parts):
    return {layer: Factors.concatenated([part[layer] for part in parts]) for layer in parts[0]}


def test_given_rows(case):
    tensors, described, language_model, tolerance = case
    editor = editor_of(language_model, described["settings"])
    after = None
    for turn in range(3):
        chunks = []
        for chunk in range(2):
            start = f"inputs/given/turn_{turn}/chunk_{chunk}"
            keys, deltas = tensors[f"{start}/keys"], tensors[f"{start}/value_gradients"]
            # a chunk of theirs is a batch of ours, of two requests; which row is whose is no matter
            request = torch.tensor([0] + [1] * (len(keys) - 1))
            chunks.append({"given": Factors(keys, deltas, request, 2)})
        edit = editor.solve(joined(chunks), sums_of(after), {})
        after = edit if after is None else after.plus(edit)
        close(
            whole(edit.updates["given"]), tensors[f"expected/given/turn_{turn}/update"], tolerance
        )
        count = after.sums["10x6.keys.count"]
        assert count.item() == tensors[f"expected/given/turn_{turn}/normaliser/count"].item()


def test_turns_of_a_model(case):
    tensors, described, language_model, tolerance = case
    settings = described["settings"]
    editor = editor_of(language_model, settings)
    rows_in = partial(rows_of, language_model, settings["modules"])
    after = None
    for turn, batches in enumerate(described["turns"]):
        if after is None:
            rows = joined([rows_in(given) for given in batches])
        else:
            with after.hooks(language_model):
                rows = joined([rows_in(given) for given in batches])
        for layer, part in rows.items():
            start = f"expected/turn_{turn}/{layer}"
            close(part.keys, tensors[f"{start}/keys"], tolerance)
            close(part.deltas, tensors[f"{start}/value_gradients"], tolerance)
        edit = editor.solve(rows, sums_of(after), {})
        for layer, update in edit.updates.items():
            theirs = tensors[f"expected/turn_{turn}/{layer}/update"]
            close(whole(update), theirs, tolerance)
        after = edit if after is None else after.plus(edit)
