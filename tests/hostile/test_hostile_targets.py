"""Configurations of strangers: whatever they name, nothing of it is called."""

import random

import pytest
from omegaconf import OmegaConf

from running.targets import allowed, check_hydra, check_targets

CALLED = tuple(
    """
    os.system os.remove subprocess.run subprocess.Popen builtins.eval builtins.exec
    builtins.open builtins.__import__ pathlib.Path.touch shutil.rmtree torch.load torch.save
    torch.hub.load torch.nn.Linear numpy.load pickle.load pickle.loads pandas.read_pickle
    joblib.load yaml.unsafe_load runpy.run_path importlib.import_module hydra.utils.instantiate
    hydra.utils.get_method functools.partial operator.methodcaller code.interact webbrowser.open
    ctypes.CDLL lightning.Trainer.fit lightning.pytorch.callbacks.LambdaCallback
    lightning.LightningModule models.language_model.torch.load
    models.language_model.LanguageModel.save files.write_whole files.cache.cached
    files.tensors.write files.written_whole running.runs.keep running.editors.built
    edits.loading.load edits.storage.write editors.pretrained.write
    evaluation.folder.RunFolder.add datamodules.reading.fetch train.main edit.main __main__.main
    tests.scripts.call datamodules . ..x datamodules.atlas.data.AtlasData.load
    editors.editor.plain callbacks.saving.os.replace
    """.split()
)
PIECES = (
    "os",
    "system",
    "torch",
    "load",
    "models",
    "editors",
    "eval",
    "pathlib",
    "Path",
    "hub",
    "_",
)


def names(rng, count):
    """The ones above, and names made up of such parts."""
    for _ in range(count):
        if rng.random() < 0.5:
            yield rng.choice(CALLED)
        else:
            yield ".".join(rng.choice(PIECES) for _ in range(rng.randint(1, 4)))


def buried(rng, target, trap):
    """A configuration with the target somewhere in it."""
    node = {"_target_": target, "command": f"touch {trap}", "path": str(trap)}
    root = {"named": target}
    if rng.random() < 0.3:
        node["_target_"] = "${named}"
    for depth in range(rng.randint(0, 5)):
        kind = rng.randrange(3)
        if kind == 0:
            node = {f"k{depth}": node, "_target_": "datamodules.pool.Pool"}
        elif kind == 1:
            node = [rng.choice((1, "a", None)), node]
        else:
            node = {f"k{depth}": node}
    return OmegaConf.create({**root, "model": node})


def of_strangers(tally, count):
    rng = random.Random(0)
    for target in names(rng, count):
        cfg = buried(rng, target, tally.trap)
        tally.case(f"{target} in {OmegaConf.to_container(cfg)}", lambda cfg=cfg: check_targets(cfg))
        hydras = {"job": {"env_set": {}}, "overrides": {"hydra": []}, "callbacks": cfg.model}
        cfg = OmegaConf.create({"named": target, "hydra": hydras})
        tally.case(f"Hydra's: {OmegaConf.to_container(cfg)}", lambda cfg=cfg: check_hydra(cfg))


def test_targets_of_strangers(tally):
    assert not any(map(allowed, CALLED))
    of_strangers(tally("targets of strangers"), 2000)


@pytest.mark.slow
def test_more_targets_of_strangers(tally):
    of_strangers(tally("targets of strangers, more"), 10000)
