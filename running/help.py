"""What ``--help`` says: what a script does, what people run most, and every setting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import lightning as L
import yaml
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PURPOSE: Mapping[str, str] = MappingProxyType(
    {
        "edit": "Makes edits of a language model and says what they did: in a benchmark of "
        "editors, or for facts of your own.",
        "train": "Trains an editor, or another thing that has a training step, such as a small "
        "language model.",
    }
)
COMMANDS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "edit": (
            ("python edit.py 'editors=[rome,ft_m]' data.limit=100", "compare editors on Atlas"),
            ("python edit.py task=apply requests=facts.csv", "make the facts of a table true"),
            ("python edit.py task=ask edit=FILE 'ask.prompts=[\"...\"]'", "ask before and after"),
            ("python edit.py model=smollm2 'editors=[ft_m]' data.limit=10", "edit another model"),
            ("python edit.py resume=FOLDER", "go on with a run that was interrupted"),
        ),
        "train": (
            ("python train.py editor=mend", "train an editor for the model of Atlas"),
            ("python train.py editor=mend trainer.max_steps=200", "for a shorter time"),
            ("python train.py model=pretrained model.path=FOLDER data=zsre", "for another model"),
            ("python train.py -m editor=mend seed=0,1,2", "several runs, below runs/sweep"),
            ("python train.py resume=FOLDER", "go on with a run that was interrupted"),
        ),
    }
)
"""By script: commands, and what they are for."""
SHOWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "edit": ("task", "data", "protocol", "model", "trainer"),
        "train": ("editor", "data", "model", "trainer", "callbacks"),
    }
)
"""By script: the groups whose chosen files are shown with all that is in them."""
HIDDEN = re.compile(r"_target_:|_partial_:|@package|^[a-z_]+: \$\{[a-z_.]+\}(\s|$)|^task: ")
"""Lines of settings that nobody sets: classes, and references to other settings."""
INNER = ("hydra", "preset", "training", "bystanders", "held_out", "facts_editor")
"""Groups whose files are found, not chosen."""


def help_of(script: str, _root_: DictConfig) -> str:
    """The text, for `string.Template`, given the configuration with what a user chose."""
    choices = dict(_root_.hydra.runtime.choices)
    parts = [
        PURPOSE[script],
        _commands(script),
        "Groups: GROUP=FILE chooses a file of configs/GROUP\n\n" + "\n".join(_groups(script)),
        f"Settings: KEY=VALUE\n\n{_settings(CONFIGS / f'{script}.yaml')}",
    ]
    for group in SHOWN[script]:
        file = CONFIGS / group / f"{choices.get(group)}.yaml"
        if file.is_file():
            parts.append(f"{group}={file.stem}\n\n{_settings(file, group)}")
    parts.append(f"python {script}.py --hydra-help has Hydra's own flags; --cfg job, all settings.")
    return "\n\n".join(parts).replace("$", "$$") + "\n"


OmegaConf.register_new_resolver("help", help_of, replace=True)


def editors(trainable: bool) -> list[str]:
    """The names of configs/editor, or of those alone that are trained."""
    files = sorted((CONFIGS / "editor").glob("*.yaml"))
    return [file.stem for file in files if not trainable or _is_trained(file)]


def _is_trained(file: Path) -> bool:
    target = yaml.safe_load(file.read_text(encoding="utf-8")).get("_target_")
    return target is not None and issubclass(get_class(target), L.LightningModule)


def _commands(script: str) -> str:
    width = max(len(command) for command, _ in COMMANDS[script])
    lines = [f"  {command:{width}}  # {purpose}" for command, purpose in COMMANDS[script]]
    return "\n".join(lines)


def _groups(script: str) -> Iterator[str]:
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir()):
        group = folder.name
        if group in INNER or (script == "train" and group in ("task", "protocol")):
            continue
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        if group == "editor":
            names = editors(trainable=script == "train")
            group = "editors=[...], of" if script == "edit" else group
        yield f"  {group}: {', '.join(names)}"


def _settings(file: Path, group: str = "") -> str:
    """The lines of a file with their comments; without what is not to be set."""
    text = file.read_text(encoding="utf-8")
    whole = "@package _global_" in text
    text = re.sub(r"^(defaults|hydra):\n(?:[ -].*\n|\n)*", "", text, flags=re.MULTILINE)
    lines = [line for line in text.splitlines() if line.strip() and not HIDDEN.search(line)]
    prefix = "" if whole or not group else f"{group}."
    return "\n".join(f"  {prefix if line[:1].isalpha() else ''}{line}" for line in lines)
