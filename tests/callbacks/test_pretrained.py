import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from callbacks.pretrained import SaveLanguageModel
from datamodules.documents import DocumentData, FactText
from models.language_model import LanguageModel
from models.pretraining import Pretraining, blank

FACTS = [("The capital of Japan is", "Tokyo"), ("Lagos is in", "Nigeria")]
SHAPE = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32}


def trained(callback):
    """The language model after a step of training with the callback."""
    text = FactText(FACTS)
    module = Pretraining(blank(text, vocabulary=270, **SHAPE))
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=DocumentData(text))
    return module.language_model


def test_the_folder_holds_the_trained_model(tmp_path):
    model = trained(SaveLanguageModel(tmp_path / "model"))
    loaded = LanguageModel.load(str(tmp_path / "model"))
    prompts = [prompt for prompt, _ in FACTS]
    assert loaded.generate(prompts, max_new_tokens=4) == model.generate(prompts, max_new_tokens=4)
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "model").mkdir()
    trained(SaveLanguageModel(tmp_path / "model"))
    assert (tmp_path / "model/config.json").is_file()


def test_half_precision_halves_the_weights(tmp_path):
    trained(SaveLanguageModel(tmp_path / "model", dtype="float16"))
    weights = load_file(tmp_path / "model/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert LanguageModel.load(str(tmp_path / "model")).dtype == torch.float32


def test_a_folder_that_holds_something_is_refused_before_training(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds something already; name another"):
        SaveLanguageModel(tmp_path)


def test_a_dtype_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of float32"):
        SaveLanguageModel(tmp_path / "model", dtype="int8")


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    def fail(*args, **keywords):
        raise OSError("no space left")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        trained(SaveLanguageModel(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []
