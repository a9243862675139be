"""Writes the trained editors that ship for Atlas, of runs of train.py, and measures them.

    python benchmarks/ready_made.py runs/mend/DATE_TIME runs/ke/DATE_TIME

Parameters are written in half precision. What the run reached on val, and what the editor in the
folder reaches on the same records, are printed; the latter stands in the folder as `results.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import lightning as L
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from editors.checkpoints import READY_MADE, load_trained
from editors.pretrained import CONFIG, card
from files import write_whole

ROOT = Path(__file__).resolve().parents[1]
CARD = """
## Measured

`python {command}`, {machine}: {minutes:.1f} minutes of steps.
On {count:.0f} records of Atlas's validation split, parameters in half precision as they are here:

| metric | value |
|---|---|
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of train.py")
    parser.add_argument(
        "--machine",
        default="one core of an AMD EPYC that other work shared",
        help="that trained them",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| editor | MB | val/score of the run | of the folder |\n|---|---|---|---|")
    for run in arguments.runs:
        print(written(run, arguments.machine))


def written(run: Path, machine: str) -> str:
    """Writes the folder of a run's best checkpoint; a line about it."""
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    cls, language_model = get_class(cfg.editor._target_), instantiate(cfg.model)
    editor = load_trained(cls, language_model, run / "checkpoints/best.ckpt")
    folder = READY_MADE / language_model.name / cls.name
    shutil.rmtree(folder, ignore_errors=True)
    editor.save_pretrained(folder, torch.float16)
    [before] = json.loads((run / "results.json").read_text())
    after = measured(cls.from_pretrained(folder, language_model), cfg)
    after["val/count"] = before["val/count"]
    write_whole(folder / "results.json", json.dumps([after], indent=1) + "\n")
    describe(folder, cls, run, after, machine)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    scores = f"{before['val/score']:.4f} | {after['val/score']:.4f}"
    return f"| {cls.name} | {size:.1f} | {scores} |"


def measured(editor: L.LightningModule, cfg: DictConfig) -> dict[str, float]:
    """On the records on which the run was judged."""
    quiet = {"logger": False, "enable_checkpointing": False, "plugins": None}
    kept = ("accelerator", "limit_val_batches", "inference_mode", "enable_progress_bar")
    trainer = L.Trainer(**{name: cfg.trainer[name] for name in kept}, **quiet)
    [metrics] = trainer.validate(editor, datamodule=instantiate(cfg.data), verbose=False)
    return dict(metrics)


def describe(folder: Path, cls: type, run: Path, metrics: dict, machine: str) -> None:
    """The card: what it is, how it was made, what it reaches."""
    note = json.loads((run / "notes.json").read_text())[0]
    config = json.loads((folder / CONFIG).read_text())
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
    more = CARD.format(
        command=note["command"].removeprefix("python "),
        machine=machine,
        minutes=config["training_cost"]["seconds"] / 60,
        count=metrics["val/count"],
        rows=rows,
    )
    text = card(str(folder.relative_to(ROOT)), cls, config)
    write_whole(folder / "README.md", text.rstrip() + "\n" + more)


if __name__ == "__main__":
    main()
