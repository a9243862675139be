"""Models and editors by their names in ``configs``, for a program that has no command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.bystanders import Bystanders
from editors.editor import Editor
from files import first_line
from models.language_model import LanguageModel
from running.editors import built, check_name, editor_config
from running.recognition import ANY, group_of, is_name_of
from running.targets import check_targets

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def language_model(source: str, **options: Any) -> LanguageModel:
    """The model of a name in configs/model, of a folder or of a hub id.

    ``options`` are those of `LanguageModel.load`; errors, too.
    """
    group = group_of(source)
    named = is_name_of(source, group)
    with _configurations():  # what is no name of a known model is a folder or an id of its own
        cfg = compose("edit", overrides=[f"model={group if named else ANY}"]).model
    with open_dict(cfg):
        if not named:
            cfg.path = source
        cfg.update({"device": "cpu", **options})
    check_targets(cfg)
    try:
        return instantiate(cfg)
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError | OSError):
            raise
        raise type(error.__cause__)(str(error.__cause__)) from error


def editor(
    name: str,
    model: LanguageModel,
    group: str,
    settings: Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> Editor:
    """The editor of a name, with the preset for a model.

    Args:
        name: of a file of configs/editor.
        model: that it edits.
        group: the model's file of configs/model.
        settings: of the editor, in place of those of its file and of the preset.
        overrides: what else is set, as on the command line: ``corpus.source=texts.txt``.

    Raises:
        FileNotFoundError: it is to be trained, and there is no checkpoint.
        ValueError: there is no such editor, or a setting is wrong or missing.
    """
    given = [f"model={group}", *overrides]
    with _configurations():
        check_name(name)
        try:
            composed = compose("edit", overrides=[*given, f"editor={name}"])
        except HydraException as error:
            raise ValueError(f"overrides={[*overrides]}: {first_line(str(error))}") from error
        own = OmegaConf.create(dict(settings))
        config = editor_config(name, composed, own, model)
    try:
        return built(config, model)
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError | TypeError | OSError):
            raise
        raise ValueError(f"{name}: {first_line(str(error.__cause__))}") from error


@cache
def bystanders(group: str) -> Bystanders:
    """What an edit of this model is not to touch."""
    with _configurations():
        cfg: DictConfig = compose("edit", overrides=[f"model={group}"])
        return instantiate(cfg.bystanders) if cfg.get("bystanders") else Bystanders()


@contextmanager
def _configurations() -> Iterator[None]:
    """Hydra reads ``configs`` until the block ends, whatever it reads outside of it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
