"""CaliNet: the authors' numbers, nothing at the start, and what holds for any number of edits."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Request
from editors.additional_parameters.calinet import CaliNet
from editors.breadth_first import Epochs
from edits import load
from edits.neurons import Neurons
from models import LanguageModel

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "the city of Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
]
KINDS = {"relu": ("wi",), "gated_gelu": ("wi_0", "wi_1")}
ACTIVATIONS = {"relu": "relu", "gated_gelu": "gelu_new"}


def right(edit, lm, rows=None):
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    options = {} if rows is None else {"rows": rows}
    return edit.edited(lm).score(prompts, targets, **options).exact()


@pytest.fixture(scope="module")
def exact(tiny):
    ordinary = tiny("gpt2")
    return LanguageModel(copy.deepcopy(ordinary.model).double(), ordinary.tokenizer)


# the authors' numbers


class Reference:
    def __init__(self, golden, dtype):
        folder = golden / "memories"
        suffix = "" if dtype == "float32" else "_fp64"
        known = json.loads((folder / "calinet.json").read_text())
        self.settings, self.batch = known["settings"], known["batch"]
        self.tensors = load_file(folder / f"calinet{suffix}.safetensors")
        other = golden / "other_editors"
        self.model = LanguageModel.load(str(other / "model"), dtype=dtype)
        self.prompts = json.loads((other / "common.json").read_text())["query_prompts"]
        self.tolerance = 1e-4 if dtype == "float32" else 1e-10

    def close(self, ours, name):
        theirs, ours = self.tensors[name], ours.detach()
        assert ours.shape == theirs.shape, name
        gap = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        assert gap < self.tolerance, f"{name}: {gap:.1e}"


@pytest.fixture(scope="module", params=["float32", "float64"])
def reference(request, golden):
    return Reference(golden, request.param)


def neurons(tensors, start, kind):
    """Theirs, as neurons: what is activated comes first."""
    keys, *ups = (tensors[f"{start}{name}_ex.weight"] for name in KINDS[kind])
    values = tensors[f"{start}wo_ex.weight"].T
    return [x.clone()[None] for x in (keys, values, *ups)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_part_adds_and_its_gradients(reference, kind):
    tensors, case = reference.tensors, f"layer_{kind}"
    keys, values, *ups = (
        x.requires_grad_() for x in neurons(tensors, f"weights/{case}/DenseReluDense.", kind)
    )
    part = Neurons(keys, keys.new_zeros(1, keys.shape[1]), values, ACTIVATIONS[kind], *ups)
    added = part.shared()(tensors[f"inputs/{case}/normalised"])
    reference.close(added, f"expected/{case}/adapter_path")
    loss = (added * tensors[f"inputs/{case}/probe"]).sum()
    slopes = torch.autograd.grad(loss, [keys, values, *ups])
    names = [KINDS[kind][0], "wo", *KINDS[kind][1:]]
    for slope, name in zip(slopes, names, strict=True):
        slope = slope[0].T if name == "wo" else slope[0]
        reference.close(slope, f"expected/{case}/gradient/{name}_ex.weight")


class Given(CaliNet):
    """CaliNet that starts from given tensors."""

    given: list

    def start(self):
        return self.given


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_with_adafactor(reference, kind):
    lm, settings, tensors = reference.model, reference.settings, reference.tensors
    requests = [Request(p, p.split()[0], target.strip()) for p, target in settings["facts"]]
    batch = lm.encode([r.prompt for r in requests], [r.target for r in requests])
    assert batch.labels.tolist() == reference.batch["labels"]
    case = f"gpt2_{kind}/frozen_base"
    for steps, after in ((1, "after_1"), (settings["steps"], "after_all")):
        epochs = Epochs(steps, 8, False, 0, None, None, "tokens")
        editor = Given(
            lm,
            block=settings["layer"],
            width=settings["ex_size"],
            lr=settings["lr"],
            clip=settings["max_grad_norm"],
            epochs=epochs,
        )
        editor.place = replace(
            editor.place, activation=ACTIVATIONS[kind], gated=kind == "gated_gelu"
        )
        editor.given = [x[0] for x in neurons(tensors, f"inputs/gpt2_{kind}/", kind)]
        edit, losses = editor.run([requests])
        for name, tensor in zip(
            [*KINDS[kind][:1], "wo", *KINDS[kind][1:]],
            [edit.neurons.keys, edit.neurons.values, edit.neurons.ups],
            strict=False,
        ):
            ours = tensor[0].T if name == "wo" else tensor[0]
            reference.close(ours, f"expected/{case}/{after}/{name}_ex.weight")
    assert not edit.neurons.biases.any()
    losses = torch.tensor(losses[0], dtype=lm.dtype)
    reference.close(losses, f"expected/{case}/losses")
    with torch.no_grad(), edit.hooks(lm):
        said = [lm.head(lm.hidden(lm.encode([p], None)))[0, -1] for p in reference.prompts]
    reference.close(torch.stack(said), f"expected/{case}/query_logits")


# what must hold


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "t5", "t5_gated", "bart"])
def test_a_part_makes_all_its_requests_true_and_is_nothing_at_the_start(tiny, family):
    lm = tiny(family)
    editor = CaliNet(lm, lr=3e-2, clip=None)
    batch = lm.encode([r.prompt for r in REQUESTS], [r.target for r in REQUESTS])
    with torch.no_grad():
        plain = lm.hidden(batch)
        with editor._edit([editor.start()]).hooks(lm):
            assert torch.equal(lm.hidden(batch), plain)
    edit = editor.edit(REQUESTS)
    assert right(edit, lm) == [True] * 3
    assert not any(right(edit, lm, rows=[-1] * 3))
    assert edit.counts == [64]
    with torch.no_grad():
        assert torch.equal(lm.hidden(batch), plain)


def quick(lm, **settings):
    epochs = Epochs(most=6, batch_size=1, skip_below=None, stop_below=4.85)
    return CaliNet(lm, width=3, lr=3e-2, epochs=epochs, edits_per_batch=2, **settings)


@pytest.mark.parametrize("optimiser", ["adafactor", "adam", "sgd"])
def test_edits_side_by_side_equal_edits_one_by_one(exact, optimiser):
    editor = quick(exact, optimiser=optimiser)
    groups = [REQUESTS[:1], REQUESTS[:2], REQUESTS[2:], REQUESTS[1:]]
    together = editor.make(groups)
    for number, group in enumerate(groups):
        alone = editor.edit(group)
        for name, tensor in alone.neurons.tensors.items():
            ours = together.neurons.tensors[name][number]
            torch.testing.assert_close(ours, tensor[0], rtol=0, atol=1e-10)


def test_an_edit_after_another_holds_both_and_its_last_request_is_taken_out_to_the_bit(exact):
    editor = quick(exact)
    first = editor.edit(REQUESTS[:1])
    both = editor.edit(REQUESTS[1:2], after=first)
    assert both.counts == [6]
    alone = editor.edit(REQUESTS[1:2])
    assert not torch.equal(both.neurons.values[:, 3:], alone.neurons.values)  # it saw the first
    back = both.without([REQUESTS[1].prompt])
    assert all(map(torch.equal, back.neurons.tensors.values(), first.neurons.tensors.values()))


def test_requests_that_share_a_part_are_not_taken_out_of_it(exact):
    with pytest.raises(ValueError, match="single requests cannot be taken out of an edit of cali"):
        quick(exact).edit(REQUESTS).without([REQUESTS[0].prompt])


def test_an_edit_is_saved_and_neither_merged_nor_exported(exact, tmp_path):
    edit = quick(exact).edit(REQUESTS)
    edit.save(tmp_path / "edit")
    loaded = load(tmp_path / "edit", exact)
    assert right(loaded, exact) == right(edit, exact)
    assert torch.equal(loaded.neurons.keys, edit.neurons.keys)
    with pytest.raises(ValueError, match="an edit of calinet changes no weights, so it cannot be"):
        edit.merge(exact, tmp_path / "merged")
    with pytest.raises(ValueError, match="cannot be exported as an adapter"):
        edit.export(exact, tmp_path / "adapter")


def test_what_cannot_be_is_refused(language_model):
    with pytest.raises(ValueError, match="no block 3 in"):
        CaliNet(language_model, block=3)
    with pytest.raises(ValueError, match="optimiser is 'adamw', expected one of adam, adafactor"):
        CaliNet(language_model, optimiser="adamw")
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        CaliNet(language_model, width=0)
