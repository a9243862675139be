"""LoRA and LocFT-BF: the authors' numbers, and what must hold for any number of edits."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from datamodules.records import Request
from editors.breadth_first import Course, Epochs
from editors.finetune import FineTune
from editors.locft import LocFt
from editors.lora import Lora
from edits import load
from models import LanguageModel
from models.rendering import Rendering

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "the city of Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
    Request("Lagos is a city in", "Lagos", "Poland"),
]
SKIP = 4.5  # a batch of the tiny models whose loss is below is skipped
ATTN_AND_MLP = ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@pytest.fixture(scope="module")
def double(tiny):
    ordinary = tiny("gpt2")
    return LanguageModel(copy.deepcopy(ordinary.model).double(), ordinary.tokenizer)


@pytest.fixture(params=[Lora, LocFt], ids=["lora", "locft"])
def method(request):
    return request.param


# the authors' numbers


@pytest.fixture(scope="module")
def reference(golden):
    """``reference(name)``: the model, settings, tensors and prompts of a file."""
    common = json.loads((golden / "other_editors" / "common.json").read_text())

    def read(name, end="none"):
        folder = golden / "memories"
        lm = LanguageModel.load(str(golden / "other_editors" / "model"))
        lm = lm.rendered(Rendering(end=end))
        tensors = load_file(folder / f"{name}.safetensors")
        return (
            lm,
            json.loads((folder / f"{name}.json").read_text()),
            tensors,
            common["query_prompts"],
        )

    return read


def relative(ours, theirs):
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@torch.no_grad()
def next_logits(lm, edit, prompts):
    with edit.hooks(lm):
        return torch.stack([lm.head(lm.hidden(lm.encode([p], None)))[0, -1] for p in prompts])


class GivenFactors(Lora):
    """LoRA from factors that are given."""

    given: dict

    def factors(self):
        return self.given


def test_the_adapters_and_losses_of_lora(reference):
    lm, known, tensors, prompts = reference("lora")
    case, settings = "rank_adaptation", known["settings"]
    expected = f"expected/{case}/group_0"
    editor = lora_of(lm, settings, batch_size=settings["batch"])
    start = f"inputs/{case}"
    editor.given = factors_of(tensors, start, editor.layers)
    edit, losses = editor.run([requests_of(known)])
    assert relative(torch.tensor(losses[0]), tensors[f"{expected}/losses"]) < 1e-4
    assert_is(edit, tensors, expected)
    assert relative(next_logits(lm, edit, prompts), tensors[f"{expected}/query_logits"]) < 1e-4


def test_going_on_with_an_adapter_and_a_new_adam(reference):
    lm, known, tensors, prompts = reference("lora")
    case = "two_edits_in_sequence"
    editor = lora_of(lm, known["settings"], batch_size=1)
    start = f"inputs/{case}"
    for number, request in enumerate(requests_of(known)[:2]):
        expected = f"expected/{case}/group_{number}"
        editor.given = factors_of(tensors, start, editor.layers)
        edit, losses = editor.run([[request]])
        assert relative(torch.tensor(losses[0]), tensors[f"{expected}/losses"]) < 1e-4
        assert_is(edit, tensors, expected)
        assert relative(next_logits(lm, edit, prompts), tensors[f"{expected}/query_logits"]) < 1e-4
        start = expected


def lora_of(lm, settings, batch_size):
    layers = [f"transformer.h.{b}.{m}" for b in settings["layers"] for m in ATTN_AND_MLP]
    epochs = Epochs(settings["steps"], batch_size, False, 0, None, None, "tokens")
    numbers = {key: settings[key] for key in ("rank", "alpha", "lr")}
    return GivenFactors(lm, layers=layers, epochs=epochs, **numbers)


def requests_of(known):
    return [Request(prompt, prompt.split()[0], target) for prompt, target in known["requests"]]


def factors_of(tensors, start, layers):
    parts = ("lora_A", "lora_B")
    return {n: tuple(tensors[f"{start}/{n}.{part}"].T for part in parts) for n in layers}


def assert_is(edit, tensors, expected):
    for layer, update in edit.updates.items():
        assert relative(update.dense()[0], tensors[f"{expected}/{layer}.update"]) < 1e-4


class GivenOrders(Epochs):
    """Orders that are given."""

    def order(self, epoch, count):
        return self.orders[epoch]


def locft_of(lm, known, case, layers):
    settings, own = known["settings"], known["settings"]["cases"][case]
    epochs = GivenOrders(own["epochs"], settings["batch"])
    object.__setattr__(epochs, "orders", known["orders"][case])
    bias = case != "matrix"
    return LocFt(lm, layers=layers, lr=own["lr"], weight_decay=own["wd"], bias=bias, epochs=epochs)


def locft_requests(known):
    return [Request(r["prompt"], r["prompt"].split()[0], r["target"]) for r in known["requests"]]


@pytest.mark.parametrize("case", ["matrix", "mlp_with_bias"])
def test_the_weights_and_losses_of_locft(reference, case):
    lm, known, tensors, prompts = reference("locft", end="eos")
    block = f"transformer.h.{known['settings']['layer']}.mlp"
    layers = [
        f"{block}.{name}" for name in (["c_proj"] if case == "matrix" else ["c_fc", "c_proj"])
    ]
    editor = locft_of(lm, known, case, layers)
    requests = locft_requests(known)
    batch = lm.encode([r.prompt for r in requests], [r.target for r in requests])
    assert batch.input_ids.tolist() == known["input_ids"]
    edit, losses = editor.run([requests])
    expected = f"expected/{case}"
    assert relative(torch.tensor(losses[0]), tensors[f"{expected}/losses"]) < 1e-4
    first = locft_of(lm, known, case, layers)
    first.epochs = once(editor.epochs)
    for made, name in ((edit, "final"), (first.run([requests])[0], "first_epoch")):
        for layer, update in made.updates.items():
            change = f"{expected}/{name}/{layer}"
            assert relative(update.weight[0], tensors[f"{change}.weight.change"]) < 1e-4
            if update.bias is not None:
                assert relative(update.bias[0], tensors[f"{change}.bias.change"]) < 1e-4
    assert relative(next_logits(lm, edit, prompts), tensors[f"{expected}/query_logits"]) < 1e-4


def once(epochs):
    shorter = replace(epochs, most=1)
    object.__setattr__(shorter, "orders", epochs.orders)
    return shorter


def test_which_batches_the_authors_skip_and_when_they_stop(reference):
    """Of the case that trains all parameters, embeddings too: what its losses decide."""
    _, known, tensors, _ = reference("locft")
    settings, case = known["settings"], "until_stop"
    own, losses = settings["cases"][case], tensors[f"expected/{case}/losses"].tolist()
    course = Course(Epochs(own["epochs"], settings["batch"]), 1, own["n"])
    skipped, stopped = [], None
    for number, loss in enumerate(losses):
        course.next_batch()
        value = torch.tensor([loss])
        if course.skipped([0], value):
            skipped.append(number)
        if course.done([0], value):
            stopped = number
            break
    assert skipped == known["skipped_batches"][case]
    assert stopped == len(losses) - 1 == 2 * known["epochs_run"][case] - 1


# what must hold


def test_nothing_is_changed_at_the_start(method, language_model):
    editor = method(language_model)
    batch = language_model.encode([r.prompt for r in REQUESTS], [r.target for r in REQUESTS])
    plain = language_model.hidden(batch)
    with torch.no_grad(), editor._edit(editor.start(1).updates([0])).hooks(language_model):
        assert torch.equal(language_model.hidden(batch), plain)


def quick(method, lm, **epochs):
    """Few requests to a batch, and some of the batches skipped."""
    epochs = {"most": 8, "batch_size": 1, "skip_below": SKIP, "stop_below": 4.85} | epochs
    return method(lm, lr=1e-2, edits_per_batch=2, epochs=Epochs(**epochs))


PAIRS = [[REQUESTS[0], REQUESTS[0]], REQUESTS[1:3], REQUESTS[2:]]


@pytest.mark.parametrize("groups", [[[r] for r in REQUESTS], PAIRS], ids=["singles", "pairs"])
def test_edits_side_by_side_equal_edits_one_by_one(method, double, groups):
    editor = quick(method, double)
    together = editor.make(groups)
    courses = [editor.run([group])[1][0] for group in groups]
    assert len({len(losses) for losses in courses}) > 1, "they are to stop at different batches"
    for number, group in enumerate(groups):
        alone = editor.edit(group)
        for layer, update in alone.updates.items():
            ours = together.updates[layer].dense()[number]
            torch.testing.assert_close(ours, update.dense()[0], rtol=0, atol=1e-10)


def test_breadth_first_is_adam_over_the_batches(double):
    """A plain loop over a copy of the model; a skipped batch leaves Adam as it was."""
    editor = quick(LocFt, double, most=6)
    edit, losses = editor.run([REQUESTS])
    assert any(loss < SKIP for loss in losses[0]) and any(loss >= SKIP for loss in losses[0])
    copied = LanguageModel(copy.deepcopy(double.model), double.tokenizer)
    weight = copied.linear(editor.layers[0]).weight.requires_grad_()
    start = weight.detach().clone()
    adam, seen = torch.optim.Adam([weight], 1e-2), []
    for (place,) in list(editor.epochs.batches(len(REQUESTS)))[: len(losses[0])]:
        request = REQUESTS[place]
        logits, targets, _ = copied.target_logits(copied.encode([request.prompt], [request.target]))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        seen.append(float(loss.detach()))
        if loss >= SKIP:
            adam.zero_grad()
            loss.backward()
            adam.step()
    assert seen == pytest.approx(losses[0], rel=1e-9)
    change = edit.updates[editor.layers[0]].weight[0]
    torch.testing.assert_close(change, weight.detach() - start, rtol=0, atol=1e-9)


def test_a_single_batch_is_ft_m(double):
    """Of a whole batch each epoch, without a bias, breadth first and depth first are the same."""
    settings = {"layers": [double.layer("mlp_out", 1)], "bias": False, "lr": 1e-2}
    epochs = Epochs(most=5, shuffle=False, skip_below=None, stop_below=None)
    ours = LocFt(double, epochs=epochs, **settings).edit(REQUESTS)
    theirs = FineTune(double, steps=5, stop_loss=0.0, **settings).edit(REQUESTS)
    for layer, update in theirs.updates.items():
        torch.testing.assert_close(ours.updates[layer].weight, update.weight, rtol=0, atol=1e-12)


def test_an_order_depends_on_seed_and_epoch_only():
    orders = [Epochs(seed=3).order(epoch, 20) for epoch in range(4)]
    torch.manual_seed(17)
    assert [Epochs(seed=3, most=4).order(epoch, 20) for epoch in (3, 2, 1, 0)] == orders[::-1]
    assert len({tuple(order) for order in orders}) == 4
    assert Epochs(seed=9).order(0, 20) != orders[0]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert list(Epochs(most=2, batch_size=2, shuffle=False).batches(3)) == [[0, 1], [2]] * 2


def test_an_adapter_depends_on_its_seed_only(language_model):
    first, again, other = (
        Lora(language_model, seed=seed, epochs=Epochs(most=2)).edit_each(REQUESTS[:2])
        for seed in (1, 1, 2)
    )
    for layer, update in first.updates.items():
        assert torch.equal(update.left, again.updates[layer].left)
        assert torch.equal(update.right, again.updates[layer].right)
        assert not torch.allclose(update.left, other.updates[layer].left, atol=1e-2)


def test_the_edited_model_says_the_targets(method, any_model):
    editor = method(any_model, lr=2e-2, epochs=Epochs(most=40))
    before = any_model.fingerprint
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    with torch.no_grad():  # as under a caller that wants no gradients
        edit = editor.edit_each(REQUESTS)
    assert all(edit.edited(any_model).score(prompts, targets, rows=range(4)).exact())
    again = LanguageModel(any_model.model, any_model.tokenizer)
    assert again.fingerprint == before


@pytest.fixture(params=["gpt2", "opt", "llama", "t5", "t5_gated", "bart"])
def any_model(request, tiny):
    return tiny(request.param)


def test_an_edit_on_top_of_another_holds_both(method, language_model):
    editor = method(language_model, lr=2e-2, epochs=Epochs(most=60, batch_size=2))
    first = editor.edit(REQUESTS[:2])
    both = editor.edit(REQUESTS[2:], after=first)
    assert len(both) == 1
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    assert all(both.edited(language_model).score(prompts[2:], targets[2:]).exact())
    with first.hooks(language_model):
        own, _ = editor.run([REQUESTS[2:]])
    for layer, update in both.updates.items():
        total = first.updates[layer].dense() + own.updates[layer].dense()
        torch.testing.assert_close(update.dense(), total)


def test_a_share_of_an_adapter_is_kept(language_model):
    epochs = Epochs(most=3)
    whole, part = (
        Lora(language_model, epochs=epochs, merge_weight=share).edit(REQUESTS)
        for share in (1.0, 0.25)
    )
    for layer, update in whole.updates.items():
        torch.testing.assert_close(part.updates[layer].dense(), update.dense() / 4)


def test_an_end_is_trained_if_the_rendering_has_one(tiny):
    lm = tiny("gpt2").rendered(Rendering(end="eos"))
    editor = LocFt(lm, lr=2e-2, epochs=Epochs(most=60))
    edit = editor.edit(REQUESTS)
    said = edit.edited(lm).generate([r.prompt for r in REQUESTS], max_new_tokens=12)
    assert [text.strip() for text in said] == [r.target for r in REQUESTS]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_what_peft_reads_says_what_the_edit_says(language_model, tmp_path):
    peft = pytest.importorskip("peft")
    lm = language_model
    edit = Lora(lm, lr=1e-2, rank=3, epochs=Epochs(most=20)).edit(REQUESTS)
    edit.save(tmp_path / "edit.safetensors")
    edit.export(lm, tmp_path / "adapter")
    batch = lm.encode([r.prompt for r in REQUESTS], None)
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(lm.model), tmp_path / "adapter")
    read = batch.attention_mask.bool()
    for kept in (edit, load(tmp_path / "edit.safetensors", lm)):
        with torch.no_grad(), kept.hooks(lm):
            expected = lm.head(lm.hidden(batch))[read]
        with torch.no_grad():
            said = adapted(batch.input_ids, attention_mask=batch.attention_mask).logits[read]
        torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-5)
    assert {
        p["rank"]
        for p in json.loads((tmp_path / "adapter/errata.json").read_text())["layers"].values()
    } == {3}


def test_a_merged_model_says_what_the_edit_says(method, language_model, tmp_path):
    lm = language_model
    edit = method(lm, lr=1e-2, epochs=Epochs(most=20)).edit(REQUESTS)
    edit.merge(lm, tmp_path / "merged")
    merged = LanguageModel.load(str(tmp_path / "merged"))
    batch = lm.encode([r.prompt for r in REQUESTS], None)
    with torch.no_grad(), edit.hooks(lm):
        expected = lm.hidden(batch)
    torch.testing.assert_close(merged.hidden(batch), expected, rtol=1e-4, atol=1e-4)


def test_names(language_model):
    assert Lora(language_model).name == "lora"
    assert LocFt(language_model).name == "locft"
    assert LocFt(language_model).identity()["epochs"]["batch_size"] == 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge_weight": 0.0}, "merge_weight must be more than 0, got 0"),
        ({"merge_weight": 1.5}, "merge_weight must be a share from 0 to 1, got 1.5"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be more than 0, got 0"),
        ({"layers": "h"}, "layers: expected a list of names, got 'h'"),
        ({"layers": ["transformer.h.0.mlp.proj"]}, "no layer 'transformer.h.0.mlp.proj'"),
    ],
)
def test_what_cannot_be_is_refused(language_model, settings, message):
    with pytest.raises(ValueError, match=message):
        Lora(language_model, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"skip_below": -1.0}, "skip_below must be at least 0, got -1"),
        ({"mean_over": "words"}, "mean_over is 'words', expected one of requests, tokens"),
    ],
)
def test_epochs_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Epochs(**settings)
