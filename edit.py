"""Makes edits and judges them: ``python edit.py 'editors=[mend,rome]' data.limit=500``.

Or does another task of ``configs/task``: ``python edit.py task=locate split=val data.limit=100``.
"""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from rich.console import Console

from evaluation.tasks.task import Reading
from running.composition import one_line
from running.editors import built, candidates, editor_configs, editor_names
from running.errors import reporting_errors
from running.folders import claimed
from running.notes import note
from running.runs import editing_run, keep, new_run, repeated

log = logging.getLogger(__name__)

CONFIGS = str(Path(__file__).with_name("configs"))  # also where it is started as a command


@one_line
@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="edit")
@reporting_errors
def main(cfg: DictConfig) -> None:
    """Composes a run or goes on with one, builds model and editors, and does the task."""
    with claimed(cfg) as folder:
        edit(cfg, folder)
        log.info("everything this run wrote: %s", folder)


def edit(cfg: DictConfig, folder: Path) -> None:
    """Goes on with the run in the folder, or begins one there."""
    resume, settled = cfg.resume, cfg.resume or cfg.rerun
    if resume:
        cfg = editing_run(Path(resume))
    else:
        cfg = repeated(cfg, "editors") if cfg.rerun else new_run(cfg)
    names = editor_names(cfg)
    task = instantiate(cfg.task, _convert_="object")
    task.check(names)
    if isinstance(task, Reading):
        keep(cfg, folder)
        task.run(folder, console())
        return
    language_model = instantiate(cfg.model)
    edits = language_model.rendered(instantiate(cfg.rendering.edits))
    probes = language_model.rendered(instantiate(cfg.rendering.probes))
    if not settled:
        with open_dict(cfg):
            cfg.settings = editor_configs(cfg, names, edits)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    with torch.no_grad():
        editors = {n: built(config, edits) for n, config in candidates(cfg, names).items()}
        if not resume:
            keep(cfg, folder)
        note(folder, seed=cfg.seed, model=edits.fingerprint)
        task.run(probes, editors, folder, console())


def console() -> Console:
    """Where results are shown; a file has no width of its own."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)


if __name__ == "__main__":
    main()
