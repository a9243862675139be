"""Configurations in folders of runs, changed: what goes on with one builds nothing else by it."""

import pytest
from hostile import some
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from test_hostile_files import bytes_changed
from test_hostile_settings import CONFIGS, EVERYWHERE, OTHERWISE, cheap, leaves, wrong
from test_hostile_targets import CALLED

import running.folders  # noqa: F401 its resolver
from running.editors import built, editor_names
from running.runs import as_text, of_run
from running.settings import check_trainable

SCRIPTS = {
    "edit": ("editors=[ft_m]", "data.limit=4", "+data.variants=1"),
    "train": ("editor=mend", "editor.rank=4", "data.limit=4", "+data.variants=1"),
}
PARTS = {"edit": "editors", "train": "callbacks"}
BYTES = {True: 100, False: 5}


@pytest.fixture(params=SCRIPTS)
def kept(request, tmp_path):
    """Script, folder of a run of it, and the text of the run's configuration."""
    name, folder = request.param, tmp_path / "run"
    folder.mkdir()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, overrides=list(SCRIPTS[name]), return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.job.name = name
            cfg.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
            if name == "edit":
                cfg.settings = {"ft_m": {"_target_": "editors.finetune.FineTune", "steps": 2}}
        cheap(cfg)
        yield name, folder, as_text(cfg)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def go_on(name, folder, language_model):
    """What the script does with the folder, up to where the run itself would begin."""
    cfg = of_run(folder, PARTS[name])
    if name == "edit":
        names = editor_names(cfg)
        instantiate(cfg.task, _convert_="object").check(names)
        for editor in names:
            built(cfg.settings[editor], language_model)
        return
    check_trainable(cfg)
    for part in ("data", "trainer"):
        instantiate(cfg[part])
    instantiate(cfg[cfg.trains], language_model=language_model, _convert_="object")
    list(instantiate(cfg.callbacks).values())


def targets(cfg, at=""):
    """The key of each target of a configuration."""
    for key in cfg:
        here, value = f"{at}.{key}" if at else key, cfg[key]
        if key == "_target_":
            yield here
        elif isinstance(value, DictConfig):
            yield from targets(value, here)


def of_folders(kept, lm, tally, whole):
    name, folder, text = kept
    path, share = folder / "config.yaml", 1.0 if whole else 0.05
    path.write_text(text)
    go_on(name, folder, lm)
    cfg = OmegaConf.create(text)

    def case(counts, key, value):
        changed = OmegaConf.create(text)
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
        path.write_text(OmegaConf.to_yaml(changed))
        counts.case(f"{name} {key}={value!r}", lambda: go_on(name, folder, lm))

    counts = tally(f"configurations of runs, {name}")
    places = [pair for pair in leaves(cfg) if pair[0].split(".")[0] not in NOT_BUILT]
    for key, bad in some([(k, b) for k, value in places for b in wrong(k, value)], share):
        case(counts, key, bad)
    keys = list(targets(cfg))
    for number, target in enumerate(some(list(CALLED), 1.0 if whole else 0.3)):
        case(counts, keys[number % len(keys)], target)
    for key in ("task", "model", "data", "seed", "device"):
        for bad in (*EVERYWHERE, "nonsense", None):
            if key in cfg and (key, bad) not in OTHERWISE:
                case(counts, key, bad)
    for what, data in bytes_changed(text.encode(), BYTES[whole], 7):
        path.write_bytes(data)
        counts.damage(f"{name} {what}", lambda: go_on(name, folder, lm))


NOT_BUILT = ("model", "protocol", "profiles", "generation", "judge", "corpus", "pool", "held_out")
"""What is built later, or for nothing that this run does; all settings have a test of their own."""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_configurations_of_runs(kept, tiny, tally):
    of_folders(kept, tiny("gpt2", num_hidden_layers=4), tally, whole=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_configurations_of_runs(kept, tiny, tally):
    of_folders(kept, tiny("gpt2", num_hidden_layers=4), tally, whole=True)
