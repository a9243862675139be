"""``--help``: what a script is for, commands that work, every setting with its comment."""

import shlex

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from scripts import ROOT, script  # noqa: F401

from running.help import COMMANDS, CONFIGS, editors


@pytest.fixture(params=["edit", "train"])
def helped(request, script):  # noqa: F811
    """The script's name, and what its help says."""
    run = script(request.param, "--help")
    assert run.code == 0, run.err
    return request.param, run.out


def test_each_setting_has_its_comment(helped):
    name, text = helped
    settings = (CONFIGS / f"{name}.yaml").read_text().partition("\nhydra:")[0]
    lines = [line for line in settings.splitlines() if " # " in line and ": " in line]
    own = [line for line in lines if not line.startswith("  -") and "_target_" not in line]
    assert len(own) >= 8
    assert [line for line in own if line.strip() not in text] == []
    assert "data.limit: null # records of val and of test, at most" in text
    assert "_target_" not in text and "$$" not in text


def test_only_editors_that_the_script_can_use(helped):
    name, text = helped
    line = next(line for line in text.splitlines() if line.startswith("  editor"))
    assert "mend" in line and ("rome" in line) == (name == "edit")
    assert editors(trainable=True) == ["ke", "malmen", "mend", "serac"]


def test_a_chosen_file_is_shown(script):  # noqa: F811
    text = script("edit", "task=apply", "--help").out
    assert "merge: null # folder for the edited model (Hugging Face)" in text
    assert "# one; locft needs neither training nor texts" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_compose(name):
    GlobalHydra.instance().clear()
    assert len(COMMANDS[name]) == 5
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for command, purpose in COMMANDS[name]:
            python, file, *overrides = shlex.split(command)
            assert (python, file) == ("python", f"{name}.py") and purpose
            overrides = [o.replace("seed=0,1,2", "seed=0") for o in overrides if o != "-m"]
            assert yaml.safe_load(str(compose(name, overrides=overrides).seed)) == 0
