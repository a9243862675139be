"""Models come from folders or the hub, and say what is wrong when they do not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from models import LanguageModel

PROMPTS, TARGETS = ["Lagos is in", "Z\u00fcrich \u65e5\u672c"], ["Nigeria", "a city"]


@pytest.fixture
def folder(language_model, tmp_path):
    language_model.save(tmp_path / "model")
    return tmp_path / "model"


def test_saved_models_load_with_equal_logits(any_family, tmp_path):
    any_family.save(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    batch = any_family.encode(PROMPTS, TARGETS)
    assert tokenizer(PROMPTS)["input_ids"] == any_family.tokenizer(PROMPTS)["input_ids"]
    logits = model.eval()(batch.input_ids, attention_mask=batch.attention_mask).logits
    assert torch.equal(logits, any_family.head(any_family.hidden(batch)))


def test_loading_what_was_saved_gives_the_same_model(any_family, tmp_path):
    any_family.save(tmp_path / "model")
    loaded = LanguageModel.load(str(tmp_path / "model"))
    assert loaded.fingerprint == any_family.fingerprint
    assert loaded.name == str(tmp_path / "model")
    for ours, theirs in zip(
        loaded.score(PROMPTS, TARGETS).log_probs,
        any_family.score(PROMPTS, TARGETS).log_probs,
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_no_pickle_is_written_and_none_is_read(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no complete language model: .*safetensors"):
        LanguageModel.load(str(folder))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtype_is_what_was_asked_for_whatever_the_file_holds(folder, dtype):
    loaded = LanguageModel.load(str(folder), dtype=dtype)
    assert loaded.dtype == getattr(torch, dtype)
    assert {weight.dtype for weight in loaded.model.parameters()} == {loaded.dtype}
    expected = torch.float64 if dtype == "float64" else torch.float32
    assert loaded.target_logits(loaded.encode(PROMPTS, TARGETS))[0].dtype == expected


def test_unknown_dtype_lists_the_choices(folder):
    with pytest.raises(ValueError, match="unknown dtype 'half'; choose one of float32, bfloat16"):
        LanguageModel.load(str(folder), dtype="half")


@pytest.mark.parametrize(("bf16", "amx"), [(False, False), (True, False), (False, True)])
def test_auto_is_bfloat16_where_the_processor_has_it(folder, monkeypatch, caplog, bf16, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with caplog.at_level("INFO"):
        loaded = LanguageModel.load(str(folder), dtype="auto")
    assert loaded.dtype == (torch.bfloat16 if bf16 or amx else torch.float32)
    assert ("cpu has no instructions for bfloat16" in caplog.text) == (not bf16 and not amx)


def test_attention_is_what_was_asked_for(folder):
    eager, sdpa = (LanguageModel.load(str(folder), attention=name) for name in ("eager", "sdpa"))
    assert eager.model.config._attn_implementation == "eager"
    assert sdpa.model.config._attn_implementation == "sdpa"
    for ours, theirs in zip(
        eager.score(PROMPTS, TARGETS).log_probs,
        sdpa.score(PROMPTS, TARGETS).log_probs,
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_gptj_has_eager_attention_only(tiny, tmp_path):
    tiny("gptj").save(tmp_path)
    with pytest.raises(ValueError, match="no attention 'sdpa' in family 'gptj'; it has: eager"):
        LanguageModel.load(str(tmp_path), attention="sdpa")


@pytest.mark.parametrize(
    "path", ["./absent", "~/absent", "/absent/model", "absent/b/c", "../absent"]
)
def test_a_missing_folder_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder '.*absent.*' to load a language model"):
        LanguageModel.load(path)


def test_the_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert LanguageModel.load("~/model").blocks == 3


def test_a_relative_folder_goes_before_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert LanguageModel.load("model").blocks == 3


@pytest.mark.parametrize("name", ["gpt-no-such-model", "nobody/no-such-model", "not an id"])
def test_a_hub_id_that_cannot_be_had(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = rf"no language model '{name}': there is no such folder, and the Hugging Face hub"
    with pytest.raises(FileNotFoundError, match=message):
        LanguageModel.load(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no complete language model: it has no config"):
        LanguageModel.load(str(tmp_path))


def test_a_folder_without_a_tokenizer(any_family, tmp_path):
    any_family.save(tmp_path)
    for file in tmp_path.glob("token*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no complete language model: it.* tokenizer"):
        LanguageModel.load(str(tmp_path))


def test_a_folder_of_an_unknown_family(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "martian"}))
    with pytest.raises(ValueError, match="unknown model family 'martian'; known families: gpt2"):
        LanguageModel.load(str(folder))


def test_weights_that_lack_a_parameter(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack parameters of the model: .*h\.1\.mlp\.c_proj"):
        LanguageModel.load(str(folder))


def test_weights_that_are_cut_off(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"the weights in .* cannot be read"):
        LanguageModel.load(str(folder))


def test_a_copied_folder_is_the_same_model(folder, tmp_path, language_model):
    shutil.copytree(folder, tmp_path / "copy")
    assert LanguageModel.load(str(tmp_path / "copy")).fingerprint == language_model.fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(value, folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model' are broken: 1 parameters hold NaN or inf, such"):
        LanguageModel.load(str(folder))
