"""Finding and loading the checkpoints of trained editors."""

# A run leaves checkpoints/best.ckpt, checkpoints/last.ckpt, and what it reached in results.json.
# Some trained editors ship with the project, as folders of `TrainedEditor.save_pretrained`.

from __future__ import annotations

import json
import logging
from math import inf
from pathlib import Path
from typing import TypeVar

import torch

from editors import pretrained
from editors.checkpoint_file import changed, saved
from editors.editor import Editor
from editors.trained import TrainedEditor
from files.schema import check as check_value
from models.language_model import LanguageModel

log = logging.getLogger(__name__)

MARK = "chosen"
"""A file of this name in the folder of a run says that its checkpoint is the one to take."""
READY_MADE = Path(__file__).with_name("ready_made")
"""Folders of trained editors: ``MODEL/EDITOR``."""

T = TypeVar("T", bound=TrainedEditor)


def checkpoint_of(
    cls: type[Editor],
    name: str,
    language_model: LanguageModel,
    path: str | None = None,
    runs: str | Path = "runs",
    with_model: str = "",
) -> Path:
    """The checkpoint ``path``, or the one below ``runs`` that is `chosen`, or a ready-made editor.

    Args:
        cls: of the editor.
        name: under which it is trained.
        language_model: that it is to edit.
        path: of a checkpoint; None: it is looked for.
        runs: folder of the runs.
        with_model: what the command that trains one needs besides, such as `` model=smollm2``.

    Raises:
        FileNotFoundError: none that fits; says what to run.
    """
    if path:
        return Path(path)
    checkpoint = chosen(cls, language_model, Path(runs)) or ready_made(cls, language_model)
    if checkpoint is None:
        raise FileNotFoundError(
            f"no checkpoint of {name} for the model {language_model.name!r} below {runs}; train "
            f"one with: python train.py editor={name}{with_model}, or name one with ckpt=FILE"
        )
    return checkpoint


def load_trained(cls: type[T], language_model: LanguageModel, path: str | Path) -> T:
    """The editor in a checkpoint, or in a folder that ``save_pretrained`` wrote.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the checkpoint is of another editor or another language model.
    """
    path = Path(path)
    kind = "ready-made" if path.is_relative_to(READY_MADE) else ""
    origin = " · ".join(filter(None, (str(path), kind, reached(path))))
    log.info("%s: %s", cls.name, origin)
    if path.is_dir():
        editor = cls.from_pretrained(path, language_model)
        editor.origin = origin
        return editor
    check(cls, language_model, path)
    editor = cls.load_from_checkpoint(
        path, language_model=language_model, map_location="cpu", weights_only=True
    )
    broken = [n for n, value in editor.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds a broken {cls.name}: {broken[0]} has NaN or inf")
    editor.origin = origin
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
    if changed(path):
        raise ValueError(f"{path} is damaged: it is not what was written")
    if owner != expected:
        raise ValueError(
            f"{path} holds {owner[0]!r} for the model with fingerprint {owner[1]}; "
            f"wanted {expected[0]!r} for {expected[1]} ({language_model.name!r})"
        )


def chosen(cls: type[Editor], language_model: LanguageModel, runs: Path) -> Path | None:
    """The checkpoint that is taken for this editor and model, of all below ``runs`` that fit.

    A run that is marked goes first: one with a file `MARK` in its folder. Then one that was judged
    on more records of val, then what reached the higher score on them, then the newest; so neither
    a short trial nor one on a few records takes the place of what was trained before. The best of a
    run goes before its last.
    """
    wanted = (cls.name, language_model.fingerprint)
    for file in sorted(runs.glob("**/*.ckpt"), key=_rank, reverse=True):
        owner = belongs_to(file)
        if owner == wanted:
            return file
        if owner is None and saved(file) is None:
            log.warning("passed over, no checkpoint or a damaged one: %s", file)
    return None


def ready_made(cls: type[Editor], language_model: LanguageModel) -> Path | None:
    """The folder of a trained editor for this model that ships with the project."""
    wanted = (cls.name, language_model.fingerprint)
    folders = sorted(READY_MADE.glob(f"*/{cls.name}"))
    return next((folder for folder in folders if pretrained.owner(folder) == wanted), None)


def _rank(path: Path) -> tuple:
    """More is better."""
    run, results = path.parent.parent, _results(path)
    judged = results.get("val/count", 0.0), results.get("val/score", -inf)
    written = path.parent.stat().st_mtime, path.stem != "last", path.stat().st_mtime
    return (run / MARK).exists(), *judged, *written


def _results(path: Path) -> dict[str, float]:
    """What a folder, or the run of a checkpoint, reached on val; nothing where it does not say."""
    folder = path if path.is_dir() else path.parent.parent
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        check_value(results, list[dict[str, float | None]], "results")
    except (OSError, ValueError):
        return {}
    return {name: value for part in results for name, value in part.items() if value is not None}


def reached(path: Path) -> str:
    """What an editor reached on val, in words; empty where that is nowhere said."""
    results = _results(path)
    if "val/score" not in results:
        return ""
    count = f" on {results['val/count']:,.0f} records" if "val/count" in results else ""
    return f"val/score {results['val/score']:.3g}{count}"


def belongs_to(path: Path) -> tuple[str, str] | None:
    """Editor and fingerprint of the language model of a checkpoint; None if it is of no editor."""
    contents = saved(path) or {}
    owner = contents.get("editor"), contents.get("language_model")
    if not isinstance(owner[0], str) or not isinstance(owner[1], dict):
        return None
    return owner[0], str(owner[1].get("fingerprint"))
