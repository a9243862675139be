"""WISE's losses, training, gate and merging give the numbers of the authors' code."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Request
from editors.additional_parameters.scope import Margins, Rows
from editors.additional_parameters.ties import ties
from editors.additional_parameters.wise import Memories, Wise
from edits.sides import distances, mean_over, prompt_distances
from models import Batch, LanguageModel
from models.passes import Pass

CASES = {"conv": "c_fc", "linear": "c_proj"}


class Reference:
    def __init__(self, golden, dtype):
        folder = golden / "memories"
        suffix = "" if dtype == "float32" else "_fp64"
        self.known = json.loads((folder / "wise.json").read_text())
        self.tensors = load_file(folder / f"wise{suffix}.safetensors")
        self.model = LanguageModel.load(str(golden / "other_editors" / "model"), dtype=dtype)
        self.tolerance = 1e-4 if dtype == "float32" else 1e-10

    def close(self, ours, name):
        theirs, ours = self.tensors[name], ours.detach()
        assert ours.shape == theirs.shape, name
        gap = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        assert gap < self.tolerance, f"{name}: {gap:.1e}"


@pytest.fixture(scope="module", params=["float32", "float64"])
def reference(request, golden):
    return Reference(golden, request.param)


def unbiased(lm, layer):
    """The model without the bias of the layer, as the case has it."""
    model = copy.deepcopy(lm.model)
    model.get_submodule(layer).bias.data.zero_()
    return LanguageModel(model, lm.tokenizer)


class Given(Wise):
    """WISE with texts and masks that are given."""

    given: Rows
    masks: dict

    def rows(self, groups):
        return self.given

    def mask_of(self, memory):
        return self.masks[memory]


def rows_given(tensors, case):
    ids, mask, labels = (tensors[f"{case}/{n}"] for n in ("input_ids", "attention_mask", "labels"))
    told = torch.zeros(len(ids), 1, dtype=torch.bool)
    told[:-1] = True
    seen = mask.bool()
    inside, outside = seen & told, seen & ~told
    if f"{case}/subject_mask" in tensors:
        inside[:-1] &= tensors[f"{case}/subject_mask"].bool()
        outside = seen & told & ~inside
    batch = Batch(ids, mask, labels.where(told, -100))
    return Rows(batch, torch.zeros(len(ids), dtype=torch.long), seen, inside, outside)


@pytest.mark.parametrize("case", CASES)
def test_three_edits_one_after_another_and_their_gate(reference, case):
    told, tensors = reference.known["cases"][case], reference.tensors
    layer = f"transformer.h.{told['layer']}.mlp.{CASES[case]}"
    sharded = case == "linear"  # every edit in a memory of its own, and two of them merged
    lm = unbiased(reference.model, layer) if sharded else reference.model
    start = lm.weight(layer)

    def change(name):
        """Theirs lie as linear layers store them, those of the other case as the model does."""
        weight = tensors[name]
        return (weight.mT if sharded else weight) - start

    masks = {
        n: tensors[name].T if sharded else tensors[name]
        for n in range(3)
        if (name := f"inputs/{case}/edit_{n}/weight_mask") in tensors
    }
    book = Memories()
    for number, edit in enumerate(told["edits"]):
        given, wanted = (f"{part}/{case}/edit_{number}" for part in ("inputs", "expected"))
        request = Request(edit["prompt"], edit["prompt"], edit["target"])
        short = copy.deepcopy(book)
        for memories, steps in ((short, 1), (book, None)):
            editor = editor_of(reference, lm, layer, sharded, steps)
            editor.masks, editor.given = masks, rows_given(tensors, given)
            (history,) = editor.write([memories], [[request]])
        reference.close(torch.tensor(history, dtype=lm.dtype), f"{wanted}/losses")
        if not sharded or number != 1:  # else merged, also after one step
            assert near(reference, short.weights[-1], change(f"{wanted}/side_weight_after_1"))
            assert near(reference, book.weights[-1], change(f"{wanted}/side_weight"))
        if sharded:
            assert near(reference, torch.stack(book.weights), change(f"{wanted}/memories"))
        thresholds = tensors[f"{wanted}/routing/thresholds"][int(sharded) :]
        ours = torch.tensor(book.least).to(thresholds) * editor.ratio
        torch.testing.assert_close(ours, thresholds, rtol=1e-5, atol=0)
        prompts = [asked["prompt"] for asked in edit["routing"]]
        said = torch.stack([said_to(lm, editor.edit_of([book]), prompt) for prompt in prompts])
        reference.close(said, f"{wanted}/routing/logits")


def editor_of(reference, lm, layer, sharded, steps):
    s = reference.known["settings"]
    return Given(
        lm, layer=layer, scope="subject", locality=0, ratio=s["act_ratio"],
        margins=Margins(s["alpha"], s["beta"], s["gamma"]), lr=s["lr"], steps=steps or s["steps"],
        stop_loss=None, norm_constraint=s["norm_constraint"], density=s["density"],
        shard=1 if sharded else 500, merge=2 if sharded else None,
    )  # fmt: skip


def near(reference, ours, theirs):
    return float((ours - theirs).norm() / theirs.norm()) < reference.tolerance


@torch.no_grad()
def said_to(lm, edit, prompt):
    """Logits of the token after a prompt."""
    batch = lm.encode([prompt], None)
    width = batch.input_ids.shape[1]
    (route,) = edit.routes(lm, [prompt], None)
    asked = torch.tensor([width - 1])
    with route.around(Pass(torch.tensor([0]), batch.attention_mask, asked, steps=False)):
        return lm.head(lm.hidden(batch))[0, -1]


def test_distances(reference):
    tensors = reference.tensors
    before, after = (tensors[f"inputs/distance/{n}"] for n in ("original", "side"))
    apart = distances(before, after, "gelu_new")
    everywhere = torch.ones_like(apart, dtype=torch.bool)
    reference.close(mean_over(apart, everywhere), "expected/distance/mean")
    masked = mean_over(apart, tensors["inputs/distance/mask"].bool())
    reference.close(masked, "expected/distance/masked")
    before, after = (tensors[f"inputs/distance/long_{n}"] for n in ("original", "side"))
    apart = distances(before, after, "gelu_new")
    everywhere = torch.ones_like(apart, dtype=torch.bool)
    reference.close(mean_over(apart, everywhere), "expected/distance/long_training")
    asked = prompt_distances(apart, everywhere, 100)
    reference.close(asked[0], "expected/distance/long_inference")
    reference.close(prompt_distances(apart, everywhere, 120), "expected/distance/long_training")


@pytest.mark.parametrize(
    ("name", "weights", "density"),
    [
        ("ties_2", [1 / 2] * 2, 0.53),
        ("ties_3", [1 / 3] * 3, 0.53),
        ("ties_weighted_3", [0.2, 0.2, 0.6], 0.53),
        ("sign_2", [1 / 2] * 2, 1.0),
        ("sign_3", [1 / 3] * 3, 1.0),
    ],
)
def test_merging(reference, name, weights, density):
    base, tensors = (reference.tensors[f"inputs/merge/{n}"] for n in ("base", "tensors"))
    merged = ties(tensors[: len(weights)] - base, weights, density)
    reference.close(base + merged, f"expected/merge/{name}")
