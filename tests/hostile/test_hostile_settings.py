"""Bad settings: of every setting of every editor and script, values that it cannot have."""

import inspect
import math
from contextlib import contextmanager

import pytest
from hostile import some
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from scripts import ROOT

import running.folders  # noqa: F401 its resolver
from datamodules.atlas.data import AtlasData
from editors.finetune import FineTune
from running.arguments import check_arguments
from running.editors import editor_names
from running.settings import check_trainable, check_values
from running.targets import check_targets

CONFIGS = ROOT / "configs"
EDITORS = sorted(path.stem for path in (CONFIGS / "editor").glob("*.yaml"))
HUGE = [1e300, 10**30]
NO_NUMBERS = [math.nan, math.inf, -math.inf, *HUGE]
EVERYWHERE = [*NO_NUMBERS, {"a": 1}, {"_target_": "os.system"}, [[[]]]]
"""What no setting can be."""
NO_NUMBER = ["nonsense", "", True, [1, 2], "1e3x", -3, -0.5]
NO_SWITCH = ["nonsense", 5, 0.5, [True], -1]
NO_TEXT = [7, 0.5, True, ["a"], "nonsense"]
NO_LIST = ["nonsense", 7, True, 0.5]
FREE = (
    *("template", "key", "system", "separator", "texts", "name", "path", "dirpath", "monitor"),
    *("fact", "frame", "option", "ballot", "save_dir", "default_root_dir", "cache_folder"),
    *("filename", "folder", "version", "file", "source", "field", "train", "val", "test", "runs"),
    *("text", "start", "encoder", "counterfactual", "strategy", "split", "prompt", "subject"),
    *("target", "save", "merge", "ckpt", "resume", "rerun", "end", "task"),
)
"""Settings that take any text."""
REAL = ("scale", "alpha", "weight")
"""Parts of names of settings that are no counts, even if a file has a whole number for them."""
OTHERWISE = (("runs", ["a"]), ("version", 7))
"""Settings that are right in another form, too: several folders, a number for a name."""
SIGNED = ("max_steps", "max_epochs", "locality", "min_delta")
"""Settings for which a number below 0 has a meaning."""
SENTENCES = [f"{what} is a city in {where}." for what in "ABCDEFGH" for where in "KLMNOPQ"]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def wrong(key, value):
    """Values that a setting cannot have, seen from the one that it has."""
    name = key.rpartition(".")[2]
    if isinstance(value, bool):
        return [*EVERYWHERE, *NO_SWITCH]
    if isinstance(value, int | float):
        signed = [bad for bad in NO_NUMBER if not (name in SIGNED and _below(bad))]
        return [*EVERYWHERE, *signed, *([1.5] if _counts(name, value) else [])]
    if isinstance(value, str):
        no_text = [bad for bad in NO_TEXT if bad != "nonsense" or name not in FREE]
        return [*EVERYWHERE, *(bad for bad in no_text if (name, bad) not in OTHERWISE)]
    if isinstance(value, ListConfig | list):
        return [*EVERYWHERE, *NO_LIST]
    return [math.nan, {"a": 1}, {"_target_": "os.system"}, [[[]]]]


def _below(bad):
    return isinstance(bad, int | float) and not isinstance(bad, bool) and bad < 0


def _counts(name, value):
    """Whether a number is a count; Lightning takes shares where it takes counts."""
    shares = name.startswith("limit_") or name in ("val_check_interval", "overfit_batches")
    real = shares or any(part in name for part in REAL)
    return isinstance(value, int) and value != 0 and not real


def leaves(node, at=""):
    """The key and the value of each setting that has no settings below it."""
    for key in node:
        here = f"{at}.{key}" if at else str(key)
        if key in ("_target_", "_partial_", "defaults") or OmegaConf.is_missing(node, key):
            continue
        if OmegaConf.is_interpolation(node, key) or key in ("corpus", "pool"):
            continue  # it is set elsewhere
        value = node[key]
        if isinstance(value, DictConfig):
            yield from leaves(value, here)
        else:
            yield here, value


def unlisted(editor):
    """What the constructor takes beside the settings of the file, with its defaults."""
    for name, parameter in inspect.signature(get_class(editor._target_)).parameters.items():
        plain = isinstance(parameter.default, bool | int | float | str)
        if plain and name not in editor:
            yield name, parameter.default


@contextmanager
def changed(cfg, key, value):
    """The configuration with another value."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    there, before = name in node, node.get(name)
    with open_dict(cfg):
        node[name] = value
        try:
            yield
        finally:
            node.pop(name)
            if there:
                node[name] = before


def ready(cfg):
    """The configuration of an editor, with a corpus and a pool if it takes any."""
    with open_dict(cfg):
        cfg.corpus = {"_target_": "datamodules.text.TextCorpus", "source": SENTENCES}
        data = {"_target_": "datamodules.atlas.data.AtlasData", "variants": 1}
        cfg.pool = {"_target_": "datamodules.pool.Pool", "data": data, "limit": 12}
        if cfg.editor.get("moments") is not None:
            cfg.editor.moments.cache_folder = None
    return OmegaConf.create({"editor": OmegaConf.to_container(cfg.editor, resolve=True)})


def make_records(count):
    """The first records of Atlas."""
    return AtlasData(variants=1, limit=count).records("test")


def build(cfg, language_model):
    """As edit.py does it."""
    check_targets(cfg)
    check_arguments(cfg, "editor", "settings.one")
    instantiate(cfg.editor, language_model=language_model, _convert_="object")


def of_editors(language_model, tally, share):
    for name in EDITORS:
        cfg = ready(compose("edit", overrides=[f"editor={name}"]))
        build(cfg, language_model)
        settings = [*leaves(cfg.editor), *unlisted(cfg.editor)]
        cases = [(k, bad) for k, value in settings for bad in wrong(k, value)]
        for key, bad in some(cases, share):
            with changed(cfg, f"editor.{key}", bad):
                tally.case(f"{name} {key}={bad!r}", lambda cfg=cfg: build(cfg, language_model))
        for key in some([k for k, _ in leaves(cfg.editor)], share):
            parent, _, leaf = f"editor.{key}".rpartition(".")
            with changed(cfg, f"{parent}.{leaf}z", 1):
                tally.case(f"{name} {key}z=1", lambda cfg=cfg: build(cfg, language_model))


@pytest.fixture(scope="module")
def small(tiny):
    """A tiny model with as many blocks as presets of Atlas count on."""
    return tiny("gpt2", num_hidden_layers=4)


def test_settings_of_editors(small, tally):
    of_editors(small, tally("settings of editors"), 0.05)


@pytest.mark.slow
def test_all_settings_of_editors(small, tally):
    of_editors(small, tally("settings of editors, all"), 1.0)


PARTS = (
    ("edit", ()),
    ("edit", ("protocol=batch",)),
    ("edit", ("protocol=sequential",)),
    ("edit", ("task=locate",)),
    ("train", ("editor=mend",)),
    ("train", ("experiment=atlas_model",)),
)
BUILT = (
    *("data", "protocol", "rendering", "callbacks", "trainer", "locate", "corpus", "pool"),
    "bystanders",
)


def build_parts(cfg, editor, records):
    """Whatever a script builds beside models and editors."""
    check_targets(cfg)
    check_values(cfg)
    if "trains" in cfg:
        check_trainable(cfg)
    if "editors" in cfg:
        editor_names(cfg)
    parts = {name: instantiate(cfg[name]) for name in BUILT if cfg.get(name) is not None}
    if "protocol" in parts and cfg.task is not None:
        parts["protocol"]({"one": editor}, records, "unused")


def cheap(cfg):
    """Without a world of bystanders of its own, which takes seconds to build."""
    if cfg.get("bystanders"):
        cfg.bystanders.update(data=None, texts=None)


def of_scripts(tally, share, tmp_path, editor):
    records = make_records(4)
    for script, overrides in PARTS:
        cfg = compose(script, overrides=list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(tmp_path)
            resolved = OmegaConf.to_container(cfg, resolve=False)
            resolved.pop("hydra")
            text = OmegaConf.to_yaml(OmegaConf.create(resolved))
            cfg = OmegaConf.create(text.replace("${hydra:runtime.output_dir}", str(tmp_path)))
            cheap(cfg)
        build_parts(cfg, editor, records)
        own = [pair for pair in leaves(cfg) if pair[0].split(".")[0] not in ("editor", "model")]
        cases = [(key, bad) for key, value in own for bad in wrong(key, value)]
        for key, bad in some(cases, share):
            with changed(cfg, key, bad):
                what = f"{script} {' '.join(overrides)} {key}={bad!r}"
                tally.case(what, lambda cfg=cfg: build_parts(cfg, editor, records))


@pytest.fixture
def command_line(monkeypatch):
    """What Hydra says of the one that was composed last, as in a script."""
    compose_anew = compose

    def said(*args, **keywords):
        cfg = compose_anew(*args, **keywords)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        return cfg

    monkeypatch.setitem(globals(), "compose", said)


def test_settings_of_scripts(small, tally, tmp_path, command_line):
    of_scripts(tally("settings of scripts"), 0.04, tmp_path, FineTune(small))


@pytest.mark.slow
def test_all_settings_of_scripts(small, tally, tmp_path, command_line):
    of_scripts(tally("settings of scripts, all"), 1.0, tmp_path, FineTune(small))
