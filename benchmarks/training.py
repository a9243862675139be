"""Example-steps per second of trained editors, and what of them the language model cannot spare.

    python benchmarks/training.py mend ke
    python benchmarks/training.py mend --set rank=1920 'training.locality_kinds=[unrelated]'

Editors are those of `configs/editor`. Model: GPT-2 layout, random weights, 6 blocks of width 256,
vocabulary 4,000. EasyEdit (14cea82) takes 110 ms of one CPU thread per example-step of MEND at this
size; its example is one edit, asked once, with one locality prompt.

No step can do without two forward passes, of the request and of the questions to the edited model,
and one backward pass, through the latter: that share of a step's time is printed. The rest is the
backward pass of the request, the unedited model's answers, and the editor's own networks.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import open_dict

from datamodules.atlas.data import AtlasData
from datamodules.atlas.text import AtlasText
from datamodules.records import requests_of
from editors.meta_learning.batches import parts_by_length, without_last
from editors.meta_learning.factors import factors
from editors.meta_learning.hypernetwork import Hypernetwork
from editors.meta_learning.training import questions
from models.pretraining import blank

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SKIPPED = 3  # first steps, not counted


class Clock(L.Callback):
    def __init__(self):
        self.cpu, self.wall, self.examples = 0.0, 0.0, 0

    def on_train_batch_start(self, trainer, module, batch, index):
        self.started = time.process_time(), time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index >= SKIPPED:
            self.cpu += time.process_time() - self.started[0]
            self.wall += time.perf_counter() - self.started[1]
            self.examples += len(batch)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("editors", nargs="+", help="names of configs/editor")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the editors")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    language_model = blank(
        AtlasText(),
        vocabulary=4000,
        n_layer=arguments.blocks,
        n_embd=arguments.width,
        n_head=4,
        n_positions=256,
        activation_function="gelu_pytorch_tanh",  # the function of GPT-2, fused
    )
    shape = f"{arguments.blocks} x {arguments.width}"
    print(f"{shape}, batch {arguments.batch}, threads {arguments.threads}")
    print("| editor | example-steps a second | CPU ms | wall ms | unavoidable CPU ms | share |")
    print("|---|---|---|---|---|---|")
    for name in arguments.editors:
        editor = configured(name, arguments.set, language_model)
        cpu, wall = timed(editor, AtlasData(batch_size=arguments.batch), arguments.steps)
        least = unavoidable(editor, AtlasData(batch_size=arguments.batch), arguments.steps)
        figures = f"{1000 / wall:.0f} | {cpu:.1f} | {wall:.1f} | {least:.1f} | {least / cpu:.0%}"
        print(f"| {name} | {figures} |", flush=True)


def configured(name: str, settings: list[str], language_model) -> Hypernetwork:
    """The editor as `configs/editor` has it, with some settings of its own."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given = [f"++editor.{setting}" for setting in settings]
        config = compose("train", overrides=[f"editor={name}", "~preset", *given])
    with open_dict(config):
        config.editor.training.seed = 0
        config.editor.training.setdefault("statistics_edits", 64)
    return instantiate(config.editor, language_model=language_model, _convert_="object")


def timed(editor: Hypernetwork, data: AtlasData, steps: int) -> tuple[float, float]:
    """CPU and wall ms per example-step."""
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(editor, datamodule=data)
    return tuple(1000 * seconds / clock.examples for seconds in (clock.cpu, clock.wall))


def unavoidable(editor: Hypernetwork, data: AtlasData, steps: int) -> float:
    """CPU ms per example-step of two forward passes and a backward pass of the unedited model."""
    model, settings, seconds, examples = editor.language_model, editor.training_settings, 0.0, 0
    for number, records in enumerate(islice(data.train_dataloader(), steps)):
        probes = questions(records, settings, np.random.default_rng(number)).probes
        requests = requests_of(records)
        asked, batch = (
            model.encode([text.prompt for text in texts], [text.target for text in texts])
            for texts in (requests, probes)
        )
        started = time.process_time()
        with torch.no_grad():
            for _, part in parts_by_length(asked):
                model.hidden(without_last(part))
        factors(model, editor.layers, batch)
        if number >= SKIPPED:
            seconds += time.process_time() - started
            examples += len(records)
    return 1000 * seconds / examples


if __name__ == "__main__":
    main()
