"""The editors of a run of edit.py: their names, configurations and objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import lightning as L
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from editors.checkpoints import checkpoint_of, load_trained
from editors.editor import Editor
from evaluation.searching.grid import called, nested, points
from models.language_model import LanguageModel
from running.arguments import check_arguments
from running.recognition import ANY, group_of
from running.settings import contents, given
from running.targets import check_targets

MISSING = object()
WHAT = {"corpus.source": ", a file of texts (.txt, .csv or .json) for its statistics"}
"""What is to be given where a key is missing."""


def editor_names(cfg: DictConfig) -> list[str]:
    """The names in ``editors``, all of which have a file.

    Raises:
        ValueError: it is no list of different names, one has no file, or another is set.
    """
    names = cfg.editors
    if not isinstance(names, ListConfig):
        raise ValueError(f"editors={names}: name some, as in 'editors=[mend,rome]'")
    if len(set(names)) < len(names):
        raise ValueError(f"editors={names}: one is named twice")
    for name in names:
        check_name(name)
    for name in _set_by_hand():
        if name not in names:  # what an experiment sets is for those that are chosen of it
            raise ValueError(f"settings.{name}: {name} is not among editors={names}")
    return list(names)


def _set_by_hand() -> list[str]:
    """The editors that the command line has settings of."""
    keys = (key.split(".") for key, _ in given())
    return [parts[1] for parts in keys if parts[0] == "settings" and len(parts) > 1]


def check_name(name: str) -> None:
    """Refuse an editor that has no file.

    Raises:
        ValueError: it has none; names those that have.
    """
    known = GlobalHydra.instance().config_loader().get_group_options("editor")
    if not known:
        raise ValueError(
            "there are no files of editors here: a kept configuration is run by "
            "--config-dir=FOLDER --config-name=config, which leaves configs in reach"
        )
    if name not in known:
        raise ValueError(f"editors: {name} is none of {', '.join(sorted(known))}")


def editor_configs(
    cfg: DictConfig, names: Sequence[str], language_model: LanguageModel
) -> dict[str, DictConfig]:
    """The configuration of each editor: its file, the preset for the model, the user's settings.

    A trained editor is configured by its checkpoint alone. The checkpoint is looked for here, so
    that a run that is resumed later takes the same one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a setting has a wrong type, or a trained editor is to be set.
    """
    configs = {}
    model = "".join(f" {o}" for key, o in given() if key.partition(".")[0] == "model")
    for name in names:
        composed, settings = _composed(name, cfg), cfg.settings.get(name) or OmegaConf.create()
        composed.ckpt, composed.runs = cfg.ckpt, cfg.runs
        configs[name] = editor_config(name, composed, settings, language_model, model)
    return configs


def editor_config(
    name: str,
    composed: DictConfig,
    settings: DictConfig,
    language_model: LanguageModel,
    model: str = "",
) -> DictConfig:
    """The configuration of an editor; see `editor_configs`.

    Args:
        name: of its file.
        composed: the whole configuration, with that file and the preset.
        settings: of the editor, in place of theirs.
        language_model: that it edits.
        model: how a command line names it.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a setting has a wrong type or is missing, or a trained editor is to be set.
    """
    check_targets(composed)
    target = composed.editor._target_
    if issubclass(get_class(target), L.LightningModule):
        if settings:
            raise ValueError(f"settings.{name}: {name} is trained, and set as its checkpoint says")
        kind, runs = get_class(target), composed.runs
        path = checkpoint_of(kind, name, language_model, composed.ckpt, runs, model)
        return OmegaConf.create({"_target_": target, "checkpoint": str(path)})
    with open_dict(composed.editor):
        composed.editor = cast(DictConfig, OmegaConf.merge(composed.editor, settings))
    check_targets(composed)
    check_arguments(composed, "editor", f"settings.{name}")
    OmegaConf.resolve(composed.editor)
    _check_complete(name, composed)
    return composed.editor


def _check_complete(name: str, composed: DictConfig) -> None:
    """Refuse an editor that lacks a setting.

    Raises:
        ValueError: names the key under which it is set.
    """
    for missing in OmegaConf.missing_keys(composed.editor):
        part, _, key = ".".join(missing.split(".")[-2:]).partition(".")
        home = f"{part}.{key}" if part in composed else f"settings.{name}.{missing}"
        raise ValueError(f"{name} needs {home}=...{WHAT.get(home, '')}")


def _composed(name: str, cfg: DictConfig) -> DictConfig:
    """What the user has composed, with an editor's file and its preset."""
    known = _recognised(cfg)
    replaced = ("editor", "editors", *(("model",) if known else ()))
    overrides = [override for key, override in given() if key not in replaced]
    overrides += [f"model={known}"] if known else []
    script = HydraConfig.get().job.name  # a kept configuration has no groups to choose from
    return compose(script, overrides=[*overrides, f"editor={name}"])


def _recognised(cfg: DictConfig) -> str | None:
    """The file of configs/model whose presets fit a model that is given by its path alone."""
    if HydraConfig.get().runtime.choices.get("model") != ANY:
        return None
    group = group_of(cfg.model.path)
    return None if group == ANY else group


def candidates(cfg: DictConfig, names: Sequence[str]) -> dict[str, DictConfig]:
    """What each editor of the run is built of: its settings, or all that a search is to try.

    Raises:
        ValueError: an editor has no such setting.
    """
    if "grid" not in cfg:
        return {name: cfg.settings[name] for name in names}
    (name,) = names
    grid = contents(cfg, resolve=True)["grid"] or {}
    for key in grid:
        if OmegaConf.select(cfg.settings[name], key, default=MISSING) is MISSING:
            known = ", ".join(k for k in cfg.settings[name] if k != "_target_")
            raise ValueError(f"grid: {name} has no setting {key}; it has {known}")
    return {
        called(point): cast(DictConfig, OmegaConf.merge(cfg.settings[name], nested(point)))
        for point in points(grid)
    }


def built(config: DictConfig, language_model: LanguageModel) -> Editor:
    """The editor of a configuration, with its trained weights if it is one that learns."""
    if "checkpoint" in config:
        return load_trained(get_class(config._target_), language_model, config.checkpoint)
    return instantiate(config, language_model=language_model, _convert_="object")
