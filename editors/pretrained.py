"""Trained editors as folders, as on the Hugging Face hub: weights and configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from files import written_whole
from files.schema import check
from files.tensors import read as read_tensors
from files.tensors import write as write_tensors


class OfModel(TypedDict):
    """Which language model an editor is for."""

    name: str
    fingerprint: str


class OfTraining(TypedDict, total=False):
    """What the configuration may say."""

    training_cost: dict[str, float]


class OfEditor(OfTraining):
    """What the configuration has to say."""

    editor: str
    language_model: OfModel
    settings: dict[str, Any]


WEIGHTS, CONFIG = "model.safetensors", "config.json"


def owner(folder: Path) -> tuple[str, str]:
    """Whose folder it is: the editor's name, and the fingerprint of its language model."""
    config = json.loads((folder / CONFIG).read_bytes())
    return config["editor"], config["language_model"]["fingerprint"]


def write(folder: str | Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the folder, whole or not at all.

    Raises:
        ValueError: it holds something already.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already; name another folder")
    with written_whole(folder) as draft:
        draft.mkdir()
        write_tensors(draft / WEIGHTS, weights, {"format": "pt"})
        (draft / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def card(repository: str, editor: type, config: Mapping[str, Any]) -> str:
    """The README.md of a trained editor on the hub: whose it is, how it is used and was set."""
    name, model = config["editor"], config["language_model"]
    rows = "\n".join(f"| {setting} | `{value}` |" for setting, value in config["settings"].items())
    head = f"---\nlibrary_name: errata\ntags:\n- knowledge-editing\n- {name}\n---"
    use = (
        f"from {editor.__module__} import {editor.__qualname__}\n\n"
        f'editor = {editor.__qualname__}.from_pretrained("{repository}", language_model)'
    )
    return (
        f"{head}\n\n# {name} for {model['name']}\n\n"
        "A knowledge editor, trained with Errata for the "
        f"language model `{model['name']}` with fingerprint `{model['fingerprint']}`.\n\n"
        f"```python\n{use}\n```\n\n| setting | value |\n|---|---|\n{rows}\n"
    )


def read(source: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration in a folder, or under an id of the Hugging Face hub.

    Raises:
        FileNotFoundError: neither of them, or a file is missing.
        ValueError: it is no trained editor.
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=[WEIGHTS, CONFIG]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise FileNotFoundError(
                f"no trained editor {str(source)!r}: there is no such folder, and the Hugging Face "
                "hub has no such id or cannot be reached"
            ) from error
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no trained editor in {source}: {name} is not there")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        check(config, OfEditor, CONFIG)
        weights, _ = read_tensors(folder / WEIGHTS)
    except ValueError as error:
        raise ValueError(f"{source} is no trained editor: {error}") from error
    return weights, config
