"""The pages on adding a method, a data set and a model family do what they say."""

import importlib
import json
import re
import shlex
import sys

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from scripts import ROOT
from test_readme import blocks as shell
from transformers import AutoConfig, AutoModelForCausalLM

from datamodules.records import Request
from models import LanguageModel, families

REQUESTS = (
    Request("Gothenburg is in", "Gothenburg", "Japan"),
    Request("The city of Lagos is in", "Lagos", "France"),
    Request("Tokyo is in", "Tokyo", "Poland"),
)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def as_module(tmp_path, monkeypatch):
    """``as_module(page)``: the module that a page's example makes, and its YAML."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def build(page):
        (code,), (settings,) = blocks(page, "python"), blocks(page, "yaml")
        settings = yaml.safe_load(settings)
        name = settings.pop("_target_").split(".")[-2]
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name), settings

    return build


def test_a_method(as_module, language_model):
    module, settings = as_module("add_a_method")
    editor = module.OneStep(language_model, **settings)
    assert editor.identity() == {"class": "OneStep", **settings}
    each = editor.edit_each(REQUESTS)
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    before = language_model.score(prompts, targets)
    after = each.edited(language_model).score(prompts, targets, rows=range(3))
    for old, new in zip(before.log_probs, after.log_probs, strict=True):
        assert new.sum() > old.sum()
    for number, request in enumerate(REQUESTS):
        alone, (layer,) = editor.edit([request]).updates, settings["layers"]
        ours = each.updates[layer].select([number]).dense()
        torch.testing.assert_close(ours, alone[layer].dense(), rtol=1e-4, atol=1e-6)
    joint = editor.edit(REQUESTS).updates[layer].dense()
    torch.testing.assert_close(joint, each.updates[layer].dense().sum(0, keepdim=True))
    groups = editor.make([REQUESTS[:2], REQUESTS[2:]])
    assert len(groups) == 2
    with pytest.raises(ValueError, match="lr must be more than 0, got 0"):
        module.OneStep(language_model, **settings | {"lr": 0})


def test_a_data_set(as_module, tmp_path):
    module, settings = as_module("add_a_data_set")
    kept = [{"prompt": "The euro is used in", "answer": "Spain"}]
    rows = [
        {"country": "France", "capital": "Paris", "new": ["Lyon", "Lugdunum"], "kept": kept},
        {
            "country": "Sweden",
            "capital": [["Stockholm"]],
            "new": "Malmö",
            "questions": ["Capital?"],
        },
        {"country": "Japan", "capital": "Tokyo"},
    ]
    (tmp_path / "capitals.json").write_text(json.dumps(rows))
    reading = module.CapitalsData(**settings | {"seed": 0}).read(tmp_path / "capitals.json")
    assert [record.requests[0].target for record in reading.records] == ["Lyon", "Malmö"]
    assert [probe.kind for r in reading.records for probe in r.probes] == [
        "unrelated",
        "generalization",
    ]
    assert [str(left) for left in reading.left_out] == [
        "capitals.json[2].new: is missing; the record has country, capital"
    ]


def test_a_model_family(tokenizer, monkeypatch):
    (code,) = blocks("add_a_model_family", "python")
    family = eval(code, vars(families))
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, family))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    config = AutoConfig.for_model(
        family.name, vocab_size=len(tokenizer), num_attention_heads=4, **sizes
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    language_model = LanguageModel(model, tokenizer, "tiny-phi")
    shapes = [language_model.shape(language_model.layer(role, 1)) for role in family.roles]
    assert shapes == [(32, 64), (64, 32), (32, 32)]
    assert len(language_model.generate(["Lagos is in"], max_new_tokens=3)) == 1


# commands


def commands() -> list[tuple[str, str]]:
    """The page and each command of the scripts on it, in blocks and in lines of text."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        inline = re.findall(r"`(python (?:edit|train)\.py [^`]+)`", text)
        lines = [" ".join(command.split()) for command in [*shell(text), *inline]]
        lines = [line for line in lines if re.match(r"python (edit|train)\.py ", line)]
        found += [(page.stem, line) for line in lines]
    # a block's variables, what a page's example makes, a name that a reader fills in, and sweeps
    own = re.compile(r"\$|data=capitals|editor=NAME| -m ")
    return [pair for pair in dict.fromkeys(found) if not own.search(pair[1])]


@pytest.fixture(scope="module")
def composed():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield lambda name, words: compose(name, overrides=words)
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(("page", "command"), commands())
def test_each_command_composes(page, command, composed):
    """What is long is not run; but there is no setting in it that nothing takes."""
    _, script, *words = shlex.split(command)
    words = [word for word in words if not word.startswith("-") and word != "..."]
    if "launch=slurm" in words or "launch=optuna" in words:
        pytest.skip("needs a plugin")
    assert composed(script.removesuffix(".py"), words)
