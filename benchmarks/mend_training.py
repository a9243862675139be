"""Milliseconds per example-step of MEND's training, at the size a peer's figure is known for.

    python benchmarks/mend_training.py

Model: GPT-2 layout, random weights, 6 blocks of width 256, vocabulary 4,000; an example is one edit
with one paraphrase and two locality prompts. EasyEdit (14cea82) takes 110 ms of one CPU thread per
example-step at this size.
"""

from __future__ import annotations

import argparse
import time

import lightning as L
import torch

from datamodules.atlas.data import AtlasData
from datamodules.atlas.text import AtlasText
from editors.meta_learning.mend import Mend
from models.pretraining import blank

PEER = 110.0  # ms of CPU per example-step


class Clock(L.Callback):
    def __init__(self, skip: int):
        self.skip, self.cpu, self.wall, self.examples = skip, 0.0, 0.0, 0

    def on_train_batch_start(self, trainer, module, batch, index):
        self.started = time.process_time(), time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index >= self.skip:
            self.cpu += time.process_time() - self.started[0]
            self.wall += time.perf_counter() - self.started[1]
            self.examples += len(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
    )
    editor = Mend(language_model, statistics_edits=64)
    clock = Clock(skip=3)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=arguments.steps,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(editor, datamodule=AtlasData(batch_size=arguments.batch))
    cpu, wall = (1000 * seconds / clock.examples for seconds in (clock.cpu, clock.wall))
    shape = f"{arguments.blocks} x {arguments.width}"
    print(f"{shape}, batch {arguments.batch}, threads {arguments.threads}")
    print(f"{cpu:.1f} ms CPU, {wall:.1f} ms wall per example-step; peer / ours = {PEER / cpu:.1f}")


if __name__ == "__main__":
    main()
