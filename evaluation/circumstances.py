"""What a run was made with: model, data, editors, machine and versions, beside its results.

Nothing here decides an answer (``run.json`` has what does): it is for who reads a report later.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from datamodules.editing import EditingData
from datamodules.records import Record, fingerprint
from editors.editor import Editor
from evaluation.costs import GIB, device_name
from files import write_whole
from models.language_model import LanguageModel

FILE = "about.json"
PACKAGES = ("errata", "torch", "lightning", "transformers", "numpy", "safetensors")


def write(folder: Path, **parts: Mapping) -> None:
    """Keep the parts in the folder; of a run that goes on, each machine that it was on."""
    before = read(folder)
    here = (
        {"began": datetime.now(UTC).isoformat(timespec="seconds")}
        | machine()
        | {"versions": versions()}
    )
    stays = before.get("machines", [])
    known = [{**each, "began": None} for each in stays]
    machines = stays if {**here, "began": None} in known else [*stays, here]
    text = json.dumps({**before, **parts, "machines": machines}, indent=1, ensure_ascii=False)
    write_whole(folder / FILE, text + "\n")


def read(folder: Path) -> dict:
    """What is kept in the folder; nothing if it is of an older run, or damaged."""
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def training_costs(folder: Path) -> dict[str, Mapping[str, float]]:
    """Of each editor what its training cost, where that is known."""
    editors = read(folder).get("editors", {})
    return {name: about["training"] for name, about in editors.items() if about.get("training")}


def of_model(language_model: LanguageModel) -> dict[str, object]:
    """Name, fingerprint, family and size of a language model, and where it is."""
    return {
        "name": language_model.name,
        "fingerprint": language_model.fingerprint,
        "family": language_model.family.name,
        "parameters": sum(p.numel() for p in language_model.model.parameters()),
        "blocks": language_model.blocks,
        "dtype": str(language_model.dtype).removeprefix("torch."),
        "device": device_name(language_model.device),
    }


def of_data(
    data: EditingData, split: str, records: Sequence[Record], left_out: Mapping[str, str]
) -> dict[str, object]:
    """Which records of which data are edited and asked, and which are not, and why.

    Args:
        data: where they come from.
        split: of it.
        records: those that are used.
        left_out: the reason for each of the others that were read, by what names it.
    """
    return {
        "name": data.name,
        "split": split,
        "licence": data.licence,
        "records": len(records),
        "digest": fingerprint(records),
        "dropped": dict(data.dropped),
        "left_out": {**data.left_out, **left_out},
    }


def of_editors(editors: Mapping[str, Editor]) -> dict[str, dict]:
    """Of each editor the method's class, and what its training cost, if that is known."""
    return {
        name: {"class": type(editor).__qualname__, "training": editor.training_cost}
        for name, editor in editors.items()
    }


def machine() -> dict[str, object]:
    """Processor, cores, memory, GPUs, system, and versions."""
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python, this project and what its numbers rest on; those that are installed."""
    known = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            known[package] = version(package)
    return known


def _processor() -> str:
    """Its name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
