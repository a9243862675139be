"""What a stranger's configuration may build: nothing but what this project builds."""

import pickle

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf
from scripts import ROOT, script  # noqa: F401

from running.targets import NAMED, allowed, check_hydra, check_targets

EVIL = (
    "torch.load",
    "pandas.read_pickle",
    "numpy.load",
    "pathlib.Path.touch",
    "os.system",
    "builtins.eval",
    "files.write_whole",  # this project's, but it writes wherever it is told to
    "editors.checkpoints.load_trained",
    "models.language_model.torch.load",
    "models.language_model.torch.nn.Module",
    "models.language_model.LanguageModel.save",
    "evaluation.folder.Path",
    "editors.nothing.Here",
    "editors",
    "",
    None,
    ["torch.load"],
)


@pytest.mark.parametrize("target", EVIL, ids=str)
def test_other_targets_are_refused(target):
    assert not allowed(target)


def shipped():
    """Every target of every file of configs/."""
    texts = [path.read_text() for path in (ROOT / "configs").glob("**/*.yaml")]
    lines = [line.strip(" -") for text in texts for line in text.splitlines()]
    return sorted({x.partition(": ")[2] for x in lines if x.startswith("_target_:")})


def test_everything_that_the_configs_build_may_be_built():
    targets = shipped()
    assert len(targets) > 30
    assert [target for target in targets if not allowed(target)] == []


def test_what_is_named_is_there():
    assert all(callable(get_object(target)) for target in NAMED)


@pytest.mark.parametrize(
    "config",
    [
        "{a: {b: [1, {_target_: torch.load}]}}",
        "{a: {_target_: '${b}'}, b: torch.load}",
        "{a: {b: [{c: {_target_: datamodules.pool.Pool, d: {_target_: torch.load}}}]}}",
        "{a: '${oc.create:\"{_target_: torch.load}\"}'}",
    ],
)
def test_targets_are_found_at_any_depth(config):
    with pytest.raises(ValueError, match=r"^file: [\w.]+\._target_=torch\.load: a configuration"):
        check_targets(OmegaConf.create(config), "file")


class Payload:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["edit", "train"])
def test_a_stranger_s_run_is_not_gone_on_with(name, script, tmp_path):  # noqa: F811
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with open(tmp_path / "run/evil.pt", "wb") as file:
        pickle.dump(Payload(tmp_path / "trace"), file)
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes((tmp_path / "run/evil.pt").read_bytes())
    load = {"_target_": "torch.load", "f": f"{tmp_path}/run/evil.pt", "weights_only": False}
    config = {
        "editors": ["ft_m"],
        "callbacks": {},
        "seed": 0,
        "model": load,
        "trainer": {"default_root_dir": f"{tmp_path}/run"},
    }
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    run = script(name, f"resume={tmp_path}/run", f"hydra.run.dir={tmp_path}/new")
    assert "run/config.yaml: model._target_=torch.load: a configuration builds" in run.error
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("edit", ["model._target_=pathlib.Path.touch"]),
        ("edit", ["++protocol.text._target_=pandas.read_pickle", "protocol=sequential"]),
        ("edit", ["editors=[ft_m]", "+settings.ft_m._target_=os.system"]),
        ("train", ["+callbacks.evil._target_=torch.load"]),
        ("train", ["trainer.plugins=[{_target_: numpy.load}]"]),
    ],
)
def test_an_override_builds_nothing_else(name, arguments, script, tmp_path):  # noqa: F811
    run = script(name, *arguments, f"hydra.run.dir={tmp_path}/run")
    assert "_target_=" in run.error
    assert "a configuration builds classes of this project only" in run.error


def test_neither_does_a_folder_of_configurations(script, tmp_path):  # noqa: F811
    (tmp_path / "stranger/model").mkdir(parents=True)
    (tmp_path / "stranger/model/nice.yaml").write_text("_target_: os.system\ncommand: touch trace")
    run = script(
        *("edit", "--config-dir", str(tmp_path / "stranger"), "model=nice"),
        f"hydra.run.dir={tmp_path}/run",
    )
    assert "model._target_=os.system" in run.error
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "node",
    [
        "callbacks: {x: {_target_: pathlib.Path.touch, self: TRAP}}",
        "launcher: {_target_: torch.save}",
        "sweeper: {_target_: torch.save}",
        "job_logging: {version: 1, handlers: {x: {(): torch.save, obj: 1, f: TRAP}}}",
        "hydra_logging: {version: 1, handlers: {x: {class: logging.handlers.SMTPHandler}}}",
        "job_logging: {version: 1, handlers: {x: {stream: 'ext://antigravity'}}}",
        "job: {env_set: {PATH: TRAP}}",
    ],
)
def test_hydra_builds_nothing_of_a_stranger(script, tmp_path, node):  # noqa: F811
    trap, folder = tmp_path / "trap", tmp_path / "stranger"
    folder.mkdir()
    (folder / "edit.yaml").write_text(f"hydra: {{{node.replace('TRAP', str(trap))}}}")
    assert script("edit", f"--config-path={folder}").error.startswith("error: hydra.")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("hydra.launcher.setup", ["rm"]), ("hydra.sweeper.custom_search_space", "os.system")],
)
def test_what_is_run_as_it_stands_comes_from_the_command_line(key, value):
    hydra = {"job": {"env_set": {}}, "overrides": {"hydra": []}}
    cfg = OmegaConf.create({"hydra": hydra})
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ValueError, match=f"{key} is run as it stands: give it on the command line"):
        check_hydra(cfg)
    cfg.hydra.overrides.hydra = [f"+{key}={value}"]
    check_hydra(cfg)
