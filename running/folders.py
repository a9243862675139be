"""The folder of a run belongs to that run alone: made for it, and locked while it is in use."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

LOCK, OWNER = ".lock", ".owner"
CONFIG, NOTES = "config.yaml", "notes.json"
OF_HYDRA = ".hydra"
"""Where Hydra keeps what it composed, if a configuration does not say otherwise."""
OF_A_RUN = (CONFIG, NOTES, "run.json", "results.json", "checkpoints", "answers")
"""What only a run leaves in a folder."""


def new_folder(runs: str, name: str, rerun: str | None = None) -> str:
    """A folder that nobody had before: ``runs/name``, or with ``_2`` and so on where there is one.

    A run that is repeated (``rerun``) is put with others of its kind: in the folder beside ``runs``
    that is called as the one where it lies.
    """
    if rerun is not None:
        runs = str(Path(runs).parent / Path(rerun).resolve().parent.name)
    name = f"{runs}/{name}"
    if rank_zero_only.rank:  # it is the first process that makes it
        return name
    number, folder = 1, Path(name)
    while True:
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            number += 1
            folder = Path(f"{name}_{number}")


# a configuration keeps what it was told: Hydra asks more than once in a run
OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)


@contextmanager
def claimed(cfg: DictConfig) -> Iterator[Path]:
    """The folder that a run works in: the one it goes on in, or else its own; nobody else's.

    One process of a run claims it for all. A run that fails before it has anything to show leaves
    none behind.

    Raises:
        ValueError: another process works in it, or a new run would replace the one it holds.
    """
    begun = Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume and (Path(cfg.resume) / CONFIG).is_file():
        with _resumed(Path(cfg.resume)) as folder:
            yield folder
        return
    if rank_zero_only.rank:
        yield begun
        return
    with _locked(begun):
        refuse_another_run(begun)
        with _nothing_left_of_a_failure(begun):
            yield begun


def leave_no_empty_folder() -> None:
    """Hydra makes a folder before anything is checked; it goes if nothing came into it."""
    if HydraConfig.initialized() and not rank_zero_only.rank:
        _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))


def refuse_another_run(folder: Path) -> None:
    """Whether a new run may have the folder.

    Raises:
        ValueError: it holds a run.
    """
    held = [name for name in OF_A_RUN if (folder / name).exists()]
    if held:
        raise ValueError(
            f"{folder} holds a run already ({', '.join(held)}): go on with it by "
            f"resume={folder}, or give this run a folder of its own"
        )


@contextmanager
def _resumed(folder: Path) -> Iterator[Path]:
    """The folder of an earlier run, with the log of what is done now, instead of a new one."""
    if rank_zero_only.rank:
        yield folder
        return
    with _locked(folder):
        _log_into(folder)
        yield folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out; the lock goes with the process, whatever ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder} is in use by {_owner(folder)}") from None
    with lock:
        (folder / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            (folder / OWNER).unlink(missing_ok=True)
            if not any(path.name != LOCK for path in folder.iterdir()):
                (folder / LOCK).unlink(missing_ok=True)


def _owner(folder: Path) -> str:
    try:
        return (folder / OWNER).read_text().strip() or "another process"
    except OSError:
        return "another process"


@contextmanager
def _nothing_left_of_a_failure(folder: Path) -> Iterator[None]:
    """Removes configuration, notes and log of a run that failed before it wrote anything else."""
    try:
        yield
    except Exception:
        names = {path.name for path in folder.iterdir()} - {LOCK, OWNER, OF_HYDRA}
        logs = {Path(handler.baseFilename) for handler in _log_files()}
        if names <= {CONFIG, NOTES, *(log.name for log in logs if log.parent == folder)}:
            for name in names:
                (folder / name).unlink()
            shutil.rmtree(folder / OF_HYDRA, ignore_errors=True)
        raise


def _log_files() -> list[logging.FileHandler]:
    return [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]


def _log_into(folder: Path) -> None:
    """Hydra has opened no file yet: it does so for the first message."""
    for handler in _log_files():
        handler.close()
        handler.baseFilename = str(folder.resolve() / Path(handler.baseFilename).name)


def _remove_if_empty(folder: Path) -> None:
    """The folder, and those above it in the working directory that held nothing else."""
    if not folder.is_dir() or any(folder.iterdir()):
        return
    folder.rmdir()
    if Path.cwd() in folder.resolve().parent.parents:
        _remove_if_empty(folder.parent)
