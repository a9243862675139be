"""Finding and loading the checkpoints of trained editors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch

from editors.checkpoint_file import saved
from editors.editor import Editor
from editors.trained import TrainedEditor
from models.language_model import LanguageModel

log = logging.getLogger(__name__)

T = TypeVar("T", bound=TrainedEditor)


def checkpoint_of(
    cls: type[Editor],
    name: str,
    language_model: LanguageModel,
    path: str | None = None,
    runs: str | Path = "runs",
) -> Path:
    """The checkpoint ``path``, or the newest below ``runs`` that fits editor and model.

    Raises:
        FileNotFoundError: none that fits; says what to run.
    """
    checkpoint = Path(path) if path else newest(cls, language_model, Path(runs))
    if checkpoint is None:
        raise FileNotFoundError(
            f"no checkpoint of {name} for the model {language_model.name!r} below {runs}; "
            f"train one with: python train.py editor={name}, or name one with ckpt=FILE"
        )
    return checkpoint


def load_trained(cls: type[T], language_model: LanguageModel, path: str | Path) -> T:
    """The editor in a checkpoint, or in a folder that ``save_pretrained`` wrote.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the checkpoint is of another editor or another language model.
    """
    path = Path(path)
    if path.is_dir():
        log.info("%s: %s", cls.name, path)
        return cls.from_pretrained(path, language_model)
    check(cls, language_model, path)
    log.info("%s: %s", cls.name, path)
    editor = cls.load_from_checkpoint(
        path, language_model=language_model, map_location="cpu", weights_only=True
    )
    return editor.to(language_model.device).eval()


def state_of(cls: type[Editor], language_model: LanguageModel, path: str | Path) -> dict:
    """The tensors in a checkpoint of this editor and model; errors as of `load_trained`."""
    check(cls, language_model, path := Path(path))
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def check(cls: type[Editor], language_model: LanguageModel, path: Path) -> None:
    """Refuse a file that is no checkpoint of this editor for this model; see `load_trained`."""
    if not path.is_file():
        raise FileNotFoundError(f"ckpt={path}: there is no such file")
    expected = (cls.name, language_model.fingerprint)
    owner = belongs_to(path)
    if owner is None:
        raise ValueError(f"{path} is no checkpoint of an editor")
    if owner != expected:
        raise ValueError(
            f"{path} holds {owner[0]!r} for the model with fingerprint {owner[1]}; "
            f"wanted {expected[0]!r} for {expected[1]} ({language_model.name!r})"
        )


def newest(cls: type[Editor], language_model: LanguageModel, runs: Path) -> Path | None:
    """The checkpoint written last for this editor and model; the best of a run before its last."""
    owner = (cls.name, language_model.fingerprint)
    files = sorted(
        runs.glob("**/*.ckpt"),
        key=lambda p: (p.parent.stat().st_mtime, p.stem != "last", p.stat().st_mtime),
        reverse=True,
    )
    return next((file for file in files if belongs_to(file) == owner), None)


def belongs_to(path: Path) -> tuple[str, str] | None:
    """Editor and fingerprint of the language model of a checkpoint; None if it is of no editor."""
    contents = saved(path)
    if contents is None or not {"editor", "language_model"} <= contents.keys():
        return None
    return contents["editor"], contents["language_model"]["fingerprint"]
