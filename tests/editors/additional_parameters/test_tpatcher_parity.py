"""T-Patcher's losses and training give the numbers of the authors' code."""

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Request
from editors.additional_parameters.margins import MARGINS, PatchLosses, mean_of_largest
from editors.additional_parameters.memory import copied, queries
from editors.additional_parameters.tpatcher import Stopping, TPatcher
from edits.neurons import NeuronEdit
from models import LanguageModel

PARTS = ("key", "key_bias", "value", "amplifier")


class Reference:
    def __init__(self, golden, dtype):
        folder = golden / "memories"
        suffix = "" if dtype == "float32" else "_fp64"
        self.settings = json.loads((folder / f"tpatcher{suffix}.json").read_text())
        self.tensors = load_file(folder / f"tpatcher{suffix}.safetensors")
        other = golden / "other_editors"
        self.model = LanguageModel.load(str(other / "model"), dtype=dtype)
        self.prompts = json.loads((other / "common.json").read_text())["query_prompts"]
        self.tolerance = 1e-4 if dtype == "float32" else 1e-10

    def editor(self, margins, steps):
        s = self.settings["settings"]
        losses = PatchLosses(
            margins=margins,
            smoothing=s["eps"],
            copies=s["repeat"],
            activation_top=20,
            margin_top=24,
            memory_top=20,
        )
        return TPatcher(
            self.model, losses=losses, stopping=Stopping(steps=steps, first=10**6), most=5
        )

    def close(self, ours, name):
        theirs, ours = self.tensors[name], ours.detach()
        assert ours.shape == theirs.shape, name
        gap = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        assert gap < self.tolerance, f"{name}: {gap:.1e}"


@pytest.fixture(scope="module", params=["float32", "float64"])
def reference(request, golden):
    return Reference(golden, request.param)


def flat(values):
    return values.flatten()[None].sort(dim=1, descending=True).values


@pytest.mark.parametrize("margin", [0.0, 1.5])
@pytest.mark.parametrize(("name", "top"), [("exp", 10**6), ("top4_exp", 4)])
def test_the_loss_of_quiet_patches(reference, margin, name, top):
    own = reference.tensors["inputs/functions/activations"].clone().requires_grad_()
    loss = mean_of_largest(flat(margin - own), torch.tensor([own.numel()]), top, 1)[0]
    case = f"expected/functions/activation_loss/{name}/margin_{margin}"
    reference.close(loss, f"{case}/value")
    reference.close(torch.autograd.grad(loss, own)[0], f"{case}/gradient")


@pytest.mark.parametrize("margins", ["official", "paper"])
@pytest.mark.parametrize(
    ("name", "tops"),
    [
        ("exp+exp", (10**6, 10**6)),
        ("top1000_exp+top1000_exp", (1000, 1000)),
        ("top7_exp+top5_exp", (7, 5)),
    ],
)
def test_the_loss_of_a_memory_that_is_answered(reference, margins, name, tops):
    own, bank = (
        reference.tensors[f"inputs/functions/{n}"].clone().requires_grad_()
        for n in ("activations", "bank_activations")
    )
    beta, gamma = MARGINS[margins]
    beside, copies = bank[:, None] - own + gamma, len(own)
    loss = mean_of_largest(flat(beside), torch.tensor([beside.numel()]), tops[0], 1)[0]
    loss = (
        loss + mean_of_largest(flat(bank - beta), torch.tensor([bank.numel()]), tops[1], copies)[0]
    )
    case = f"expected/functions/memory_loss/{name}/gamma_{gamma}_beta_{beta}"
    reference.close(loss, f"{case}/value")
    slopes = torch.autograd.grad(loss, (own, bank))
    for slope, of in zip(slopes, ("gradient", "bank_gradient"), strict=True):
        reference.close(slope, f"{case}/{of}")


@pytest.mark.parametrize("margins", ["margins_zero", "margins_paper"])
def test_two_edits_one_after_the_other(reference, margins):
    model, tensors, case = reference.model, reference.tensors, f"{{}}/{margins}/edit_{{}}"
    banks, edit = [tensors["inputs/bank"], tensors["inputs/validation_bank"]], None
    for number, told in enumerate(reference.settings["cases"][margins]["edits"]):
        request = Request(told["prompt"], told["prompt"], told["answer"].strip())
        given, wanted = case.format("inputs", number), case.format("expected", number)
        for steps in (1, 12):
            editor = reference.editor({"margins_zero": "official"}.get(margins, "paper"), steps)
            with torch.no_grad(), around(edit, model):
                patches = editor.start([request])
                assert patches.mistakes.positions[0].tolist() == told["patch_positions"]
                reference.close(patches.mistakes.queries[0], f"{given}/queries")
                patches.tensors[0][2] = tensors[f"{given}/value_init"].clone()
                for name, tensor in zip(PARTS, patches.tensors[0], strict=True):
                    reference.close(tensor, f"{wanted}/start/{name}")
                history = editor.train(patches, tuple(banks))
            after = "after_1" if steps == 1 else "after_all"
            for name, tensor in zip(PARTS, patches.tensors[0], strict=True):
                reference.close(tensor.detach(), f"{wanted}/{after}/{name}")
        losses = torch.tensor(history[0], dtype=model.dtype)
        reference.close(losses, f"{wanted}/losses")
        neurons, (asked,) = patches.neurons([0]), patches.mistakes.queries
        own = (asked * neurons.keys).sum(-1) + neurons.biases
        real = torch.ones_like(own, dtype=torch.bool)
        quiet = editor.losses.memory(own, real, neurons.keys, neurons.biases, banks[1])
        gap = quiet[0] - tensors[f"{wanted}/validation"][2]
        assert abs(gap) < reference.tolerance * quiet[0]
        assert len(banks[0]) == told["bank_rows_before"]
        place = editor.place
        new = NeuronEdit(neurons, place.given, place.layer, "tpatcher", model.fingerprint)
        edit = new if edit is None else edit.plus(new)
        (seen,) = queries(model, place.given, [(request.prompt, request.target)])
        rows = copied(seen, editor.losses.copies)
        if number == 0:
            reference.close(rows, f"{wanted}/rows_added_to_bank")
        banks = [torch.cat([bank, rows]) for bank in banks]
        assert len(banks[0]) == told["bank_rows_after"]
        with torch.no_grad(), edit.hooks(model):
            said = [
                model.head(model.hidden(model.encode([prompt], None)))[0, -1]
                for prompt in reference.prompts
            ]
            answers, *_ = model.target_logits(model.encode([request.prompt], [request.target]))
        reference.close(torch.stack(said), f"{wanted}/query_logits")
        reference.close(answers, f"{wanted}/answer_logits")


def around(edit, model):
    return nullcontext() if edit is None else edit.hooks(model)
