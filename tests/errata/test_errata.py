"""``import errata``: five lines of Python that correct a fact."""

import json

import pytest
import yaml
from scripts import ROOT

import errata
from editors.additional_parameters.grace import Grace
from edits import NOTHING, WeightEdit
from models import LanguageModel
from running.recognition import group_of

FACT = errata.Request("Gothenburg is a city in", "Gothenburg", "Norway")


@pytest.fixture(scope="module")
def model():
    return errata.load("atlas")


@pytest.fixture(scope="module")
def edit(model):
    return errata.edit(model, "ft_m", [FACT])


def test_a_fact_is_corrected_checked_and_kept(model, edit, tmp_path):
    assert model.generate(FACT.prompt).strip().startswith("Sweden")
    assert model.with_edit(edit).generate(FACT.prompt).strip().startswith("Norway")
    found = edit.check()
    assert not found.missed and len(found.moved) < 10
    edit.save(tmp_path / "edit.safetensors")
    again = errata.load_edit(model, tmp_path / "edit.safetensors")
    assert again.requests == [FACT]
    texts = model.with_edit(again).generate([FACT.prompt, "Lagos is a city in"])
    assert texts == model.with_edit(edit).generate([FACT.prompt, "Lagos is a city in"])


def test_an_editor_has_the_preset_of_the_model(model):
    preset = yaml.safe_load((ROOT / "configs/preset/atlas/ft_m.yaml").read_text())
    editor = errata.editor(model, "ft_m")
    assert (editor.layers, editor.lr) == (preset["layers"], preset["lr"])
    assert errata.editor(model, "ft_m", lr=0.5).lr == 0.5
    assert errata.editor(model, "rome", search={"steps": 3}).search.steps == 3


@pytest.mark.parametrize(
    ("source", "group"),
    [
        ("atlas", "atlas"),
        ("gpt2-xl", "gpt2_xl"),
        ("openai-community/gpt2-xl", "gpt2_xl"),
        ("Qwen/Qwen2.5-7B", "qwen2_5_7b"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3_2_1b"),
        ("some/folder", "pretrained"),
        ("models/atlas", "pretrained"),  # its presets are for its weights
    ],
)
def test_presets_are_found_by_the_name_of_a_model(source, group):
    assert group_of(source) == group


LLAMA = {"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2048}
QWEN = {"model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 4096}


@pytest.mark.parametrize(
    ("values", "group"),
    [
        (LLAMA | {"vocab_size": 128256}, "llama3_2_1b"),
        (LLAMA | {"vocab_size": 32000}, "pretrained"),
        (QWEN, "qwen3_8b"),
    ],
)
def test_a_model_in_a_folder_is_known_by_its_configuration(values, group, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**values, "attention_bias": False}))
    assert group_of(str(tmp_path)) == group


def test_models_that_are_known_by_their_configuration_have_a_file(tmp_path):
    shapes = yaml.safe_load((ROOT / "running/recognition.yaml").read_text())
    assert {path.parent.name for path in ROOT.glob("configs/preset/*/*")} - {"atlas"} <= {*shapes}
    for group, shape in shapes.items():
        assert (ROOT / f"configs/model/{group}.yaml").is_file()
        (tmp_path / "config.json").write_text(json.dumps(shape))
        assert group_of(str(tmp_path)) == group  # no two are alike


def test_a_second_edit_goes_on_from_the_first(model, edit):
    other = errata.Request("Lagos is a city in", "Lagos", "Sweden")
    both = errata.edit(model, errata.editor(model, "ft_m"), [other], after=edit)
    assert both.requests == [FACT, other]
    assert model.with_edit(both).generate(other.prompt).strip().startswith("Sweden")


def test_a_model_of_transformers_is_taken_over(model, tiny, tmp_path):
    lm = tiny("gpt2")
    taken = errata.load(lm.model, lm.tokenizer)
    made = errata.edit(taken, "ft_m", [errata.Request("Lagos is in", "Lagos", "Japan")], steps=30,
                       layers=[lm.layer("mlp_out", 2)], lr=0.05)  # fmt: skip
    with made.hooks(taken.language_model):
        inside = lm.generate(["Lagos is in"])
    assert inside == [taken.with_edit(made).generate("Lagos is in")]
    with pytest.raises(ValueError, match="tokenizer is missing: GPT2LMHeadModel comes without one"):
        errata.load(lm.model)


def test_what_did_not_become_true_is_warned_of(model):
    with pytest.warns(UserWarning, match="1 of 1 requests did not become true: 'Gothenburg is a"):
        errata.edit(model, "ft_m", [FACT], steps=1, lr=1e-6)


def test_names_and_reprs(model, edit):
    assert repr(model) == "<Model atlas>"
    seen = repr(model.with_edit(edit))
    assert seen.startswith("<Model atlas, edited: <WeightEdit by ft_m: 1 edit of model")
    assert "Gothenburg is a city in → Norway" in repr(edit)
    assert model.edit is NOTHING and isinstance(edit.edit, WeightEdit)
    assert isinstance(model.language_model, LanguageModel)
    assert Grace.at_subject is False and errata.editor(model, "rome").at_subject


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: errata.editor(m, "roam"), "editors: roam is none of alphaedit, "),
        (lambda m: errata.editor(m, "ft_m", lr="fast"), "settings.ft_m.lr=fast: expected a number"),
        (lambda m: errata.editor(m, "rome", layer=99), "rome: .*99"),
        (lambda m: errata.editor(m, "rome", overrides=["pool=none"]), r"overrides=\['pool=none'\]"),
        (lambda m: errata.load("no/such/folder"), "no folder 'no/such/folder'"),
        (lambda m: errata.load_edit(m, "no/file"), "'no/file' is neither a file nor a repository"),
    ],
)
def test_what_a_user_can_mend_is_one_line(model, call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_a_method_with_statistics_says_which_text_it_needs(tiny):
    lm = tiny("gpt2")
    taken = errata.load(lm.model, lm.tokenizer)
    with pytest.raises(ValueError, match=r"^rome needs corpus.source=\.\.\., a file of texts"):
        errata.editor(taken, "rome")


def test_it_is_typed():
    assert (ROOT / "errata/py.typed").is_file()
