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

from models.language_model import LanguageModel
from running.editors import built, editor_configs, editor_names
from running.errors import reporting_errors
from running.runs import editing_run, new_run

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="configs", config_name="edit")
@reporting_errors
def main(cfg: DictConfig) -> None:
    """Composes a run or goes on with one, builds model and editors, and does the task."""
    resume = cfg.resume
    cfg = editing_run(Path(resume)) if resume else cfg
    names = editor_names(cfg)
    task = instantiate(cfg.task, _convert_="object")
    task.check(names)
    language_model = instantiate(cfg.model)
    edits = language_model.rendered(instantiate(cfg.rendering.edits))
    probes = language_model.rendered(instantiate(cfg.rendering.probes))
    folder = Path(resume) if resume else begun(cfg, names, edits)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    with torch.no_grad():
        editors = {name: built(cfg.settings[name], edits) for name in names}
        task.run(probes, editors, folder, console())
    log.info("everything this run wrote: %s", folder)


def begun(cfg: DictConfig, names: list[str], language_model: LanguageModel) -> Path:
    """The folder of a new run, whose configuration says all of each editor."""
    configs = editor_configs(cfg, names, language_model)
    with open_dict(cfg):
        cfg.settings = configs
    return new_run(cfg)


def console() -> Console:
    """Where results are shown; a file has no width of its own."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)


if __name__ == "__main__":
    main()
