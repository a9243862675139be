"""Making edits, and reading those that were saved."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.records import Request
from editors.editor import Editor
from edits import storage
from edits.edit import Edit
from edits.history import Making
from edits.loading import load as load_file
from errata.model import Model
from evaluation.correction import FILE, Correction
from files.hub import fetched
from running import presets
from scoring.known import says


def editor(model: Model, name: str, *, overrides: Sequence[str] = (), **settings: Any) -> Editor:
    """An editor by its name in configs/editor, with the preset for the model.

    Args:
        model: that it edits.
        name: such as ``rome``; a trained one is the best that fits, below ``runs``, or ships.
        overrides: what else is set, as on the command line: ``corpus.source=texts.txt`` for a
            method with statistics, ``pool=records`` for one that looks at records.
        settings: of the editor: ``layer=5, search={"steps": 40}``.

    Raises:
        FileNotFoundError: it is to be trained, and there is no checkpoint.
        ValueError: there is no such editor, or a setting is wrong or missing.
    """
    return presets.editor(name, model.language_model, model.group, settings, overrides)


@torch.no_grad()
def edit(
    model: Model,
    editor: str | Editor,
    requests: Sequence[Request],
    after: Correction | None = None,
    **options: Any,
) -> Correction:
    """An edit that makes all the requests true; it warns where one did not become so.

    Args:
        model: that is edited.
        editor: its name, or the object, which a second edit need not build again.
        requests: what is to become true.
        after: an edit that the model has already; the result holds it too.
        options: of `errata.editor`, where it is named.

    Raises:
        ValueError: the editor refuses the requests.
    """
    name = editor if isinstance(editor, str) else editor.name
    method = _named(model, editor, **options) if isinstance(editor, str) else editor
    made = method.edit(requests, after.edit if after else None)
    making = Making.now(name, requests, method.identity())
    history = (*(after.history if after else ()), making)
    correction = _correction(model, made, history)
    _warn(correction, requests)
    return correction


def load_edit(model: Model, source: str | Path, editor: Editor | None = None) -> Correction:
    """The edit in a file, or in a repository of the Hugging Face hub.

    Args:
        model: that it was made for.
        source: a file that `Correction.save` wrote, or the id of what `push_to_hub` uploaded.
        editor: what made it, where its edits need that, as SERAC's do.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no edit, or one of another model.
    """
    path = Path(source)
    if not path.is_file():
        path = fetched(str(source), FILE)
    _, history = storage.about(path)
    load = editor.load if editor else lambda path: load_file(path, model.language_model)
    return _correction(model, load(path), history)


_named = editor


def _correction(model: Model, made: Edit, history: tuple[Making, ...]) -> Correction:
    bystanders = presets.bystanders(model.group)
    return Correction(model.language_model, made, history, bystanders=bystanders)


def _warn(correction: Correction, requests: Sequence[Request]) -> None:
    """Say which requests are not true now."""
    if not correction.edit.scores:
        return
    true = says(correction.edit.edited(correction.language_model), requests)
    missed = [f"{r.prompt!r} → {r.target!r}" for r, t in zip(requests, true, strict=True) if not t]
    if missed:
        more = f" and {len(missed) - 3:,} more" if len(missed) > 3 else ""
        warnings.warn(
            f"{len(missed):,} of {len(requests):,} requests did not become true: "
            f"{', '.join(missed[:3])}{more}",
            stacklevel=4,
        )
