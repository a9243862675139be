"""Every file under configs/ composes and names what is there; every editor keeps the contract."""

import hashlib
import inspect
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf, open_dict
from scripts import ROOT

from datamodules.records import Request
from editors.editor import Editor
from editors.meta_learning.hypernetwork import Hypernetwork
from edits import EditedModel, Journal, WeightEdit
from models import LanguageModel
from models.atlas import language_model as shipped

CONFIGS = ROOT / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("**/*.yaml"))
LAUNCH = [file for file in FILES if file.parts[0] == "launch"]  # of plugins: tests/test_sweeps.py
FILES = [file for file in FILES if file not in LAUNCH]
EDITORS = sorted(path.stem for path in (CONFIGS / "editor").glob("*.yaml"))
PRESETS = CONFIGS / "preset"
ROMES = [name for name in EDITORS if "rome" in name]
SMALL = {path.stem: OmegaConf.load(path) for path in (ROOT / "tests/editors/small").glob("*.yaml")}
"""Settings that make an editor quick, beside its tests; a variant takes those of its base."""
OF_EDIT = ("task", "protocol", "held_out", "other_task", "generation", "judge", "bystanders",
           "facts_editor")  # fmt: skip
OF_EDIT_TOO = (
    ("trainer", "edit"),
    *(("experiment", f"atlas_{protocol}") for protocol in ("batch", "sequence")),
    *(("experiment", f"survey{of_model}") for of_model in ("", "_smollm2")),
)
OF_ONE_EDITOR = {"preset": ("edit", "train"), "training": ("train",)}
"""Groups with a folder for each model and a file for each editor, and the scripts that read it."""
SENTENCES = [f"{what} is a city in {where}." for what in "ABCDEFGH" for where in "KLMNOPQ"]
POOL = {
    "_target_": "datamodules.pool.Pool",
    "data": {"_target_": "datamodules.atlas.data.AtlasData"},
    "limit": 12,
}
SENTENCES_CORPUS = {"_target_": "datamodules.text.TextCorpus", "source": SENTENCES}
REQUESTS = [
    Request("Lagos is in", "Lagos", "Sweden", "Nigeria"),
    Request("The capital of Japan is", "Japan", "Paris", "Tokyo"),
    Request("Marie Curie was a citizen of", "Marie Curie", "the yen", "Poland"),
]


@pytest.fixture(scope="module")
def composed():
    """``composed("edit", "editor=rome")``: the configuration."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield lambda name, *overrides: compose(name, overrides=list(overrides))
    GlobalHydra.instance().clear()


# files


def overrides_of(file: Path) -> tuple[str, ...]:
    """The script and the overrides that make it read a file of configs/."""
    group, name = str(file.parent), file.stem
    if group == ".":
        return (name,)
    if file.parts[0] in OF_ONE_EDITOR:
        _, model, _ = file.parts
        return (OF_ONE_EDITOR[file.parts[0]][0], f"model={model}", f"editor={name}")
    if group == "profile":
        return ("edit", f"+profile@profiles.of_a_user={name}")
    script = "edit" if group in OF_EDIT or (group, name) in OF_EDIT_TOO else "train"
    return (script, f"{group}={name}")


def base_of(editor: str) -> str:
    """The editor whose preset an editor takes: its own, unless its file names another."""
    given = OmegaConf.to_container(OmegaConf.load(CONFIGS / "editor" / f"{editor}.yaml"))
    defaults = [default for default in given.get("defaults", []) if default != "_self_"]
    for default in defaults:
        if not isinstance(default, str):  # it takes the preset of another method
            (preset,) = default.values()
            return str(preset).rpartition("/")[2]
    own = any(PRESETS.glob(f"*/{editor}.yaml"))
    return editor if own or not defaults else base_of(defaults[0])


def nodes(config: object):
    """Every part of a configuration that has a target."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from nodes(value)


def arguments(target: object) -> set[str] | None:
    """What a target takes by name; None if it passes the rest on to something of its own."""
    known = set()
    for call in calls(target):  # up the bases, as long as each passes on what it does not know
        parameters = inspect.signature(call).parameters
        known |= set(parameters)
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return known
    return None


def calls(target: object) -> list[object]:
    """A function; or the constructors of a class and of its bases from the same package."""
    if not isinstance(target, type):
        return [target]
    package = target.__module__.partition(".")[0]
    bases = [cls for cls in target.__mro__ if cls.__module__.partition(".")[0] == package]
    return [cls.__init__ for cls in bases if "__init__" in vars(cls)]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_each_file_composes_and_names_what_is_there(file, composed):
    """Targets can be found, and the keys beside them are arguments of theirs."""
    config = OmegaConf.to_container(composed(*overrides_of(file)))
    found = list(nodes(config))
    assert len(found) >= 3
    for node in found:
        known = arguments(get_object(node["_target_"]))
        assert known is None or node.keys() <= known | {"_target_", "_partial_"}, node["_target_"]


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] in OF_ONE_EDITOR], ids=str)
def test_a_preset_changes_its_editor_and_a_training_its_data_and_trainer(file, composed):
    _, *chosen = overrides_of(file)
    text, given = (CONFIGS / file).read_text(), OmegaConf.load(CONFIGS / file)
    of_editor = file.parts[0] == "preset"
    assert text.startswith("# @package editor\n" if of_editor else "# @package _global_\n")
    assert of_editor or given.keys() <= {"data", "trainer", "callbacks"}
    for script in OF_ONE_EDITOR[file.parts[0]]:
        config = composed(script, *chosen)
        assert_holds(config.editor if of_editor else config, given)


def assert_holds(config: Mapping, given: Mapping) -> None:
    """Every value that is given is there."""
    for key, value in given.items():
        if isinstance(value, Mapping):
            assert_holds(config[key], value)
        else:
            assert config[key] == value


def test_presets_are_of_a_model_and_an_editor_that_are_there():
    for group in OF_ONE_EDITOR:
        for path in (CONFIGS / group).glob("*/*.yaml"):
            assert (CONFIGS / "model" / f"{path.parent.name}.yaml").is_file()
            assert path.stem in EDITORS
            assert base_of(path.stem) == path.stem  # a variant's would be read beside its base's


BLOCKS = {
    "gpt2_xl": ("gpt2", 48),
    "gptj_6b": ("gptj", 28),
    "gpt_neox_20b": ("gpt_neox", 44),
    "opt_13b": ("opt", 40),
    "llama2_7b": ("llama", 32),
    "llama3_8b": ("llama", 32),
    "llama3_1_8b": ("llama", 32),
    "llama3_2_1b": ("llama", 16),
    "llama3_2_3b": ("llama", 28),
    "mistral_7b": ("mistral", 32),
    "qwen2_5_7b": ("qwen2", 28),
}
"""Family and number of blocks of the models that have a file of their own."""


@pytest.mark.parametrize("name", BLOCKS)
def test_solvers_find_their_layers_in_a_model_of_that_depth(name, composed, tiny):
    family, blocks = BLOCKS[name]
    lm = tiny(family, num_hidden_layers=blocks)
    for solver in EDITORS:
        config = composed("edit", f"editor={solver}", f"model={name}")
        if not solves(config.editor):
            continue
        editor = built(config.editor, lm)
        preset = PRESETS / name / f"{base_of(solver)}.yaml"
        given = OmegaConf.load(preset) if preset.is_file() else {}
        if "layer" in given or "layers" in given:
            assert editor.blocks == list(given.get("layers", [given.get("layer")]))
        else:
            assert abs(editor.blocks[-1] - blocks / 3) < 2  # nobody published any
        assert config.model.path.count("/") == 1
        assert OmegaConf.is_missing(config.corpus, "source")


def solves(config: Mapping) -> bool:
    """Whether an editor solves for the outputs of a few blocks, given moments of keys."""
    return ".locate_then_edit." in config["_target_"] and "moments" in config


def test_there_are_solvers(composed):
    solvers = {name for name in EDITORS if solves(composed("edit", f"editor={name}").editor)}
    assert solvers >= {*ROMES, "memit", "pmet", "emmet", "alphaedit"}


def test_models_with_a_file_of_their_own_are_all_known():
    own = {path.stem for path in (CONFIGS / "model").glob("*.yaml")} - {
        "atlas",
        "blank_atlas",
        "blank_facts",
        "pretrained",
    }
    assert own >= {*BLOCKS}
    sources = [path.read_text() for name in BLOCKS for path in PRESETS.glob(f"{name}/*.yaml")]
    assert sources and all("# Source: " in text for text in sources)


@pytest.mark.parametrize("name", [name for name in ROMES if name != "rome"])
def test_variants_of_rome_take_its_preset(name, composed):
    for model in ("atlas", "gptj_6b"):
        rome, variant = (composed("edit", f"model={model}", f"editor={e}") for e in ("rome", name))
        differ = {
            k for k, v in variant.editor.items() if k not in rome.editor or rome.editor[k] != v
        }
        assert differ <= {"key_mode", "moments"}


def built(config: Mapping, language_model: LanguageModel, **settings) -> Editor:
    """The editor of a configuration, with a few sentences or records if it takes such."""
    config = OmegaConf.merge(config, settings)
    if "pool" in config:
        with open_dict(config):
            config.pool = POOL
    if config.get("moments") is not None:
        with open_dict(config):
            config.moments.update({"corpus": SENTENCES_CORPUS, "cache_folder": None})
    return instantiate(config, language_model=language_model, _convert_="object")


@pytest.mark.parametrize("name", EDITORS)
def test_each_editor_is_built_with_the_shipped_model(name, composed):
    model = shipped()
    editor = built(composed("edit", f"editor={name}").editor, model)
    assert isinstance(editor, Editor)
    assert editor.name == name
    assert editor.language_model is model


# the contract of every editor


@pytest.fixture(scope="module", params=EDITORS)
def editor(request, composed, language_model):
    """An editor as its file describes it, on a tiny model; one that learns has learned nothing."""
    config = composed("edit", f"editor={request.param}").editor
    small = SMALL.get(request.param, SMALL.get(base_of(request.param), {}))
    editor = built(config, language_model, **small)
    if isinstance(editor, Hypernetwork):
        editor.collect(REQUESTS)
    if isinstance(editor, L.LightningModule):
        editor.eval()
    with torch.no_grad():
        editor.prepare()
    return editor


def digest(language_model) -> str:
    """SHA-256 of all weights and buffers."""
    found = hashlib.sha256()
    for name, tensor in language_model.model.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def hooks(language_model) -> int:
    """How many hooks are on the model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in language_model.modules() for kind in kinds)


@contextmanager
def unchanged(language_model):
    """Whatever happens inside, the model is as it was before."""
    before = digest(language_model), hooks(language_model)
    try:
        yield
    finally:
        assert (digest(language_model), hooks(language_model)) == before
        assert not any(p.requires_grad or p.grad is not None for p in language_model.parameters())
        assert not language_model.model.training


def answers(model, prompts, targets, **rows):
    if isinstance(model, EditedModel) and not model.edit.scores:
        pytest.skip(
            f"{model.edit.editor}'s edits only generate; tests/edits/test_steps.py asks them"
        )
    return model.score(prompts, targets, **rows).log_probs


def test_each_request_gets_an_edit_and_the_model_stays_as_it_was(editor):
    with unchanged(editor.language_model), torch.no_grad():
        edit = editor.edit_each(REQUESTS)
    assert len(edit) == len(REQUESTS)
    assert len(edit.select([2, 0])) == 2


def test_an_edit_is_made_whether_gradients_are_on_or_off(editor):
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    rows = list(range(len(REQUESTS)))
    with torch.no_grad():
        off = editor.edit_each(REQUESTS).edited(editor.language_model)
    with torch.enable_grad():
        on = editor.edit_each(REQUESTS).edited(editor.language_model)
    for one, other in zip(
        answers(off, prompts, targets, rows=rows),
        answers(on, prompts, targets, rows=rows),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_an_edit_changes_answers_and_rows_without_one_are_bitwise_the_model_s(editor):
    model = editor.language_model
    prompts, targets = [r.prompt for r in REQUESTS] * 2, [r.target for r in REQUESTS] * 2
    rows = [0, -1, 2, -1, 1, -1]
    edited = editor.edit_each(REQUESTS).edited(model)
    pairs = zip(
        rows,
        answers(edited, prompts, targets, rows=rows),
        answers(model, prompts, targets),
        strict=True,
    )
    for row, after, before in pairs:
        assert torch.equal(after, before) == (row == -1)


def test_edits_made_together_are_those_made_alone(editor):
    model = editor.language_model
    together = editor.edit_each(REQUESTS)
    for number, request in enumerate(REQUESTS):
        one, other = (
            answers(edit.edited(model), [request.prompt], [request.target])[0]
            for edit in (together.select(number), editor.edit_each([request]))
        )
        assert torch.allclose(one, other, atol=1e-3)


def test_one_edit_holds_all_requests_and_another_comes_on_top(editor):
    model = editor.language_model
    with unchanged(model), torch.no_grad():
        assert len(editor.edit(REQUESTS)) == 1
        first = editor.edit(REQUESTS[:1])
        second = editor.edit(REQUESTS[1:2], after=first)
    assert len(first) == len(second) == 1
    prompts, targets = [r.prompt for r in REQUESTS[:2]], [r.target for r in REQUESTS[:2]]
    one, both = (answers(e.edited(model), prompts, targets) for e in (first, second))
    before = answers(model, prompts, targets)
    assert not torch.equal(one[0], before[0])
    assert not torch.equal(both[1], one[1])


def test_a_sequence_of_edits_is_cut_back_to_the_bit(editor):
    model = editor.language_model
    made = editor.edit(REQUESTS[:1])
    if not isinstance(made, WeightEdit):
        pytest.skip(f"{editor.name}'s edits keep no journal of weights")
    first = Journal.of(made)
    second = editor.edit(REQUESTS[1:2], after=first).ended()
    third = editor.edit(REQUESTS[2:], after=second).ended()
    for steps, then in ((1, made), (2, second)):
        cut = third.cut(steps)
        for one, other in zip(
            *(answers(e.edited(model), ["Lagos is in"] * 2, ["Sweden", "a"]) for e in (cut, then)),
            strict=True,
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_in_the_middle_leaves_the_model_as_it_was(call, editor):
    model, calls = editor.language_model, 0

    def fail(module, arguments, output):
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("in the middle")

    asked = [REQUESTS[0].prompt], [REQUESTS[0].target]
    wanted = answers(model, *asked)[0]
    with unchanged(model):
        handle = model.module(model.block(model.blocks - 1)).register_forward_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="in the middle"):
                for _ in range(call):  # editors that remember run the model only to answer
                    answers(editor.edit_each(REQUESTS[:1]).edited(model), *asked)
        finally:
            handle.remove()
    assert torch.equal(answers(model, *asked)[0], wanted)
    assert len(editor.edit_each(REQUESTS)) == len(REQUESTS)


def test_no_requests_is_an_error(editor):
    for make in (editor.edit, editor.edit_each):
        with pytest.raises(ValueError, match="there are no requests"):
            make([])
