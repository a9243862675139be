"""An exported edit is a LoRA adapter that peft reads, and with it the model is the edited model."""

import copy
import json
import logging

import pytest
import torch
from random_edits import as_dense, digest, double, random_edit
from safetensors.torch import load_file

from edits import adapter
from edits.updates import LowRank
from edits.weights import WeightEdit
from models import LanguageModel

# peft asks transformers by a name that is on its way out
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

PROMPTS = ["Lagos is a city in", "The capital of Sweden is", "Tokyo"]
TARGETS = ["Nigeria", "Stockholm", "is a city"]


@torch.no_grad()
def logits(model, language_model):
    targets = None if language_model.family.encoder is None else TARGETS
    batch = language_model.encode(PROMPTS, targets)
    if batch.source is None:
        said = model(batch.input_ids, attention_mask=batch.attention_mask).logits
        return said * batch.attention_mask[..., None]
    return model(
        batch.source.input_ids,
        attention_mask=batch.source.attention_mask,
        decoder_input_ids=batch.input_ids,
    ).logits


def assert_adapted(language_model, edit, folder, atol=1e-5):
    """A copy of the model with peft's adapter says what the edited model says."""
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(language_model.model)
    plain = logits(model, language_model)
    adapted = peft.PeftModel.from_pretrained(model, folder)
    with edit.hooks(language_model):
        expected = logits(language_model.model, language_model)
    torch.testing.assert_close(logits(adapted, language_model), expected, rtol=1e-5, atol=atol)
    assert (expected - plain).abs().max() > 0.01


def fits(folder):
    return json.loads((folder / "errata.json").read_text())["layers"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_a_low_rank_edit_is_its_adapter(tiny, family, tmp_path):
    lm = tiny(family)
    edit, sha = random_edit(lm), digest(lm)
    edit.export(lm, tmp_path / "adapter")
    assert digest(lm) == sha
    assert_adapted(lm, edit, tmp_path / "adapter")
    assert all(fit == {"rank": 2, "residual": 0.0} for fit in fits(tmp_path / "adapter").values())
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, update in edit.updates.items():
        factors = [
            tensors[f"base_model.model.{name}.{part}.weight"] for part in ("lora_A", "lora_B")
        ]
        assert torch.equal(factors[0].T, update.left[0])
        assert torch.equal(factors[1].T, update.right[0])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_layer_has_its_own_rank(tiny, family, tmp_path):
    lm = tiny(family)
    edit = random_edit(lm, rank=1, roles=("mlp_in",)).plus(
        random_edit(lm, rank=5, roles=("mlp_out",))
    )
    edit.export(lm, tmp_path / "adapter")
    ranks = {name: fit["rank"] for name, fit in fits(tmp_path / "adapter").items()}
    assert set(ranks.values()) == {1, 5}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] == ranks
    assert config["r"] == config["lora_alpha"] == 5
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert_adapted(lm, edit, tmp_path / "adapter")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_whole_matrix_is_decomposed(tiny, family, tmp_path):
    lm = tiny(family)
    edit = as_dense(random_edit(lm, rank=3))
    edit.export(lm, tmp_path / "adapter")
    for fit in fits(tmp_path / "adapter").values():
        assert fit["rank"] == 3 and fit["residual"] < 1e-6
    assert_adapted(lm, edit, tmp_path / "adapter")


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_bias_moves_too(tiny, family, tmp_path):
    lm = tiny(family)
    other = random_edit(lm, rank=2, roles=("mlp_in",))
    edit = as_dense(random_edit(lm, rank=3, roles=("mlp_out",)), 0.3).plus(other)
    edit.export(lm, tmp_path / "adapter")
    assert_adapted(lm, edit, tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["low rank", "dense"])
def test_what_a_lower_rank_leaves_out_is_said(language_model, tmp_path, kind, caplog):
    lm = language_model
    edit = random_edit(lm, rank=4)
    edit = edit if kind == "low rank" else as_dense(edit)
    with caplog.at_level(logging.INFO, adapter.__name__):
        edit.export(lm, tmp_path / "adapter", rank=2)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    said = fits(tmp_path / "adapter")
    for name, update in edit.updates.items():
        down, up = (tensors[f"base_model.model.{name}.{p}.weight"] for p in ("lora_A", "lora_B"))
        whole = update.dense()[0]
        residual = torch.linalg.matrix_norm((up @ down).T - whole) / torch.linalg.matrix_norm(whole)
        best = torch.linalg.svdvals(whole)
        assert said[name]["rank"] == 2 == len(down)
        assert said[name]["residual"] == pytest.approx(float(residual), rel=1e-4)
        assert float(residual) == pytest.approx(float(best[2:].norm() / best.norm()), rel=1e-4)
    worst = max(fit["residual"] for fit in said.values())
    assert f"residual at most {worst:.2g}" in caplog.text


def test_what_stacking_filled_up_is_left_out(language_model, tmp_path):
    lm = language_model
    small = random_edit(lm, rank=1, roles=("mlp_in",))
    both = WeightEdit.stack([small, random_edit(lm, rank=3, roles=("mlp_in", "mlp_out"))])
    both.select(0).export(lm, tmp_path / "adapter")
    ranks = {name: fit["rank"] for name, fit in fits(tmp_path / "adapter").items()}
    assert set(ranks.values()) == {1} and len(ranks) == 4  # also where nothing changes
    assert_adapted(lm, small, tmp_path / "adapter")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_precisions(tiny, dtype, tmp_path):
    lm = double(tiny("llama"))
    if dtype == torch.bfloat16:
        lm = LanguageModel(lm.model.to(dtype), lm.tokenizer)
    layer = lm.layer("mlp_out", 1)
    d_in, d_out = lm.shape(layer)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    factors = torch.randn(1, d_in, 2, dtype=wide), torch.randn(1, 2, d_out, dtype=wide)
    edit = WeightEdit({layer: LowRank(*factors)}, "random", lm.fingerprint)
    edit.export(lm, tmp_path / "adapter")
    assert_adapted(lm, edit, tmp_path / "adapter", atol=0.1 if dtype == torch.bfloat16 else 1e-5)


def test_a_failed_export_leaves_nothing(language_model, tmp_path, monkeypatch):
    def full(tensors, file, metadata):
        raise OSError("disk full")

    monkeypatch.setattr(adapter, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        random_edit(language_model).export(language_model, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_says_what_it_belongs_to(language_model, tmp_path):
    random_edit(language_model).export(language_model, tmp_path / "new" / "adapter")
    files = {path.name for path in (tmp_path / "new" / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "errata.json"}
    origin = json.loads((tmp_path / "new" / "adapter" / "errata.json").read_text())
    assert origin["model"] == language_model.fingerprint
    config = json.loads((tmp_path / "new" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-gpt2"
    assert (tmp_path / "new" / "adapter").stat().st_mode & 0o755 == 0o755


def test_what_cannot_be_exported_is_refused(language_model, tiny, tmp_path):
    lm, edit = language_model, random_edit(language_model)
    with pytest.raises(ValueError, match="only a single edit can be exported, got 2: select one"):
        random_edit(lm, count=2).export(lm, tmp_path / "adapter")
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        edit.export(lm, tmp_path / "adapter", rank=0)
    with pytest.raises(ValueError, match="this edit belongs to the model"):
        edit.export(tiny("gpt2", seed=1), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match="exists and is not an empty folder"):
            edit.export(lm, folder)


def test_adapters_that_are_served_together_stay_apart(tiny, tmp_path):
    """Each row of a batch has its own, as ``rows`` has it for edits."""
    peft = pytest.importorskip("peft")
    lm = tiny("llama")
    edits = [random_edit(lm, seed=seed, rank=rank) for seed, rank in ((1, 2), (2, 3))]
    for number, edit in enumerate(edits):
        edit.export(lm, tmp_path / str(number))
    model = peft.PeftModel.from_pretrained(
        copy.deepcopy(lm.model), tmp_path / "0", adapter_name="first"
    )
    model.load_adapter(tmp_path / "1", adapter_name="second")
    batch = lm.encode(PROMPTS, None)
    names = ["second", "__base__", "first"]
    with torch.no_grad():
        said = model(
            batch.input_ids, attention_mask=batch.attention_mask, adapter_names=names
        ).logits
    with WeightEdit.stack(edits).hooks(lm, [1, -1, 0]):
        expected = logits(lm.model, lm)
    said = said * batch.attention_mask[..., None]
    torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-5)
    plain = logits(lm.model, lm)
    assert [(said[row] - plain[row]).abs().max() > 0.01 for row in range(3)] == [True, False, True]
