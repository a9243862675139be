"""Fine-tuning: the reference numbers, and what must hold for any number of edits."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Request
from editors.finetune import FineTune
from models import LanguageModel

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "the city of Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
]


@pytest.fixture(scope="module")
def double(tiny):
    tiny_model = tiny("gpt2")
    return LanguageModel(copy.deepcopy(tiny_model.model).double(), tiny_model.tokenizer)


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden / "other_editors"
    settings = json.loads((folder / "finetuning.json").read_text())
    common = json.loads((folder / "common.json").read_text())
    requests = [
        Request(r["prompt"].format(r["subject"]), r["subject"], r["target_new"])
        for r in common["requests"]
    ]
    tensors = load_file(folder / "finetuning.safetensors")
    return LanguageModel.load(str(folder / "model")), settings, requests, tensors, common


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(
    "case",
    ["norm_constraint_batch", "norm_constraint_single", "unconstrained_single", "weight_decay"],
)
def test_the_weights_after_training(reference, case):
    model, settings, requests, tensors, common = reference
    setting = settings["cases"][case]
    layer = model.layer("mlp_out", setting["layer"])
    editor = FineTune(
        model,
        layers=[layer],
        objective="prompt_last",
        **{key: setting[key] for key in ("lr", "steps", "norm_constraint", "weight_decay")},
    )
    chosen = [requests[i] for i in setting["requests"]]
    edit, losses = editor.run([chosen])
    expected = {key: tensors[f"expected/{case}/{key}"] for key in ("weight_change", "bias_change")}
    update = edit.updates[layer]
    assert relative(update.weight[0], expected["weight_change"]) < 2e-5
    assert relative(update.bias[0], expected["bias_change"]) < 2e-5
    assert relative(torch.tensor(losses[0]).double(), tensors[f"expected/{case}/losses"]) < 1e-5
    logits = []
    for prompt in common["query_prompts"]:
        with torch.no_grad(), edit.hooks(model):
            logits.append(model.head(model.hidden(model.encode([prompt], None)))[0, -1])
    assert relative(torch.stack(logits), tensors[f"expected/{case}/query_logits"]) < 1e-4


def test_the_losses_of_ft_m(reference):
    model, settings, requests, tensors, _ = reference
    setting = settings["ft_m"]
    editor = FineTune(
        model, layers=[model.layer("mlp_out", setting["layer"])], lr=setting["lr"], steps=3
    )
    chosen = [
        next(r for r in requests if f"{r.prompt} {r.target}" == text) for text in setting["texts"]
    ]
    _, losses = editor.run([[request] for request in chosen])
    ours, theirs = torch.tensor(losses), torch.tensor(setting["losses_first_steps"])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    first = tensors["expected/ft_m/loss_per_request"].float()
    torch.testing.assert_close(ours[:, 0], first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", ["target", "prompt_last"])
def test_edits_side_by_side_equal_edits_one_by_one(double, objective):
    editor = FineTune(double, objective=objective, lr=1e-2, stop_loss=4.0, edits_per_batch=2)
    together = editor.edit_each(REQUESTS)
    steps = {len(losses) for losses in editor.run([[request] for request in REQUESTS])[1]}
    assert len(steps) > 1, "the edits are to stop at different steps"
    for number, request in enumerate(REQUESTS):
        alone = editor.edit([request])
        for layer, update in alone.updates.items():
            torch.testing.assert_close(
                together.updates[layer].weight[number], update.weight[0], rtol=0, atol=1e-12
            )
            torch.testing.assert_close(
                together.updates[layer].bias[number], update.bias[0], rtol=0, atol=1e-12
            )


def test_the_edited_model_says_the_new_targets(language_model):
    before = language_model.fingerprint
    with torch.no_grad():  # as under a caller that wants no gradients
        edit = FineTune(language_model, lr=1e-2).edit_each(REQUESTS)
    scores = edit.edited(language_model).score(
        [r.prompt for r in REQUESTS], [r.target for r in REQUESTS], rows=[0, 1, 2]
    )
    assert all(map(torch.equal, scores.predicted, scores.targets))
    assert not any(weight.requires_grad for weight in language_model.parameters())
    again = LanguageModel(language_model.model, language_model.tokenizer)
    assert again.fingerprint == before


def test_a_joint_edit_holds_all_requests_and_the_edit_before_it(language_model):
    editor = FineTune(language_model, lr=1e-2, steps=50)
    first = editor.edit(REQUESTS[:1])
    both = editor.edit(REQUESTS[1:], after=first)
    assert len(both) == 1
    scores = both.edited(language_model).score(
        [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    )
    assert all(map(torch.equal, scores.predicted[1:], scores.targets[1:]))
    with first.hooks(language_model):
        own, _ = editor.run([REQUESTS[1:]])
    layer = editor.layers[0]
    total = first.updates[layer].weight + own.updates[layer].weight
    torch.testing.assert_close(both.updates[layer].weight, total)


def test_no_weight_changes_by_more_than_the_constraint(language_model):
    edit = FineTune(language_model, lr=1e-2, norm_constraint=3e-3).edit_each(REQUESTS)
    update = next(iter(edit.updates.values()))
    assert update.weight.abs().max() == pytest.approx(3e-3)
    assert update.bias.abs().max() <= 3e-3 + 1e-9


def test_several_layers_of_any_family(any_family):
    layers = [any_family.layer(role, 1) for role in ("mlp_in", "mlp_out")]
    edit, losses = FineTune(any_family, layers=layers, steps=3).run(
        [[request] for request in REQUESTS]
    )
    assert list(edit.updates) == layers
    assert all(first > last for first, *_, last in losses)


def test_names_tell_the_variants_apart(language_model):
    assert FineTune(language_model, objective="prompt_last").name == "ft"
    assert FineTune(language_model, objective="prompt_last", norm_constraint=1e-3).name == "ft_l"
    assert FineTune(language_model).name == "ft_m"


def test_what_cannot_be_is_refused(language_model):
    with pytest.raises(ValueError, match="objective is 'last'"):
        FineTune(language_model, objective="last")
    with pytest.raises(ValueError, match="norm_constraint must be more than 0, got 0"):
        FineTune(language_model, norm_constraint=0.0)
    with pytest.raises(ValueError, match="no requests"):
        FineTune(language_model).edit([])
    with pytest.raises(ValueError, match="no requests"):
        FineTune(language_model).edit_each([])


@pytest.mark.parametrize("objective", ["target", "prompt_last"])
def test_blocks_below_the_trained_layer_run_once(language_model, objective):
    lm, calls = language_model, []
    hook = lm.module(lm.layer("mlp_out", 0)).register_forward_hook(lambda *_: calls.append(1))
    editor = FineTune(
        lm, layers=[lm.layer("mlp_out", 1)], objective=objective, steps=4, stop_loss=0.0
    )
    _, losses = editor.run([[request] for request in REQUESTS])
    hook.remove()
    assert len(losses[0]) == 4 and len(calls) == 1


def test_the_default_layer_is_a_late_one(tiny):
    for blocks, late in ((3, 2), (6, 4), (1, 0)):
        lm = tiny("llama", num_hidden_layers=blocks)
        assert FineTune(lm).layers == [lm.layer("mlp_out", late)]
