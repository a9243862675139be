"""Milliseconds per example-step of MEND's training, at the size a peer's figure is known for.

    python benchmarks/mend_training.py

Model: GPT-2 layout, random weights, 6 blocks of width 256, vocabulary 4,000. EasyEdit (14cea82)
takes 110 ms of one CPU thread per example-step at this size; its example is one edit, asked once,
with one locality prompt. Printed for such examples and for two locality prompts, as `editor=mend`
trains; with its network, whose rank is the layers' width, with that of `configs/editor/mend.yaml`
and with that of the preset for Atlas.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

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
        activation_function="gelu_pytorch_tanh",  # the function of GPT-2, fused
    )
    data = AtlasData(batch_size=arguments.batch)
    shape = f"{arguments.blocks} x {arguments.width}"
    print(f"{shape}, batch {arguments.batch}, threads {arguments.threads}")
    print("| rank | locality prompts | CPU ms | wall ms | peer / ours |\n|---|---|---|---|---|")
    for rank, kinds in product((1920, 256, 64), (("unrelated",), ("unrelated", "neighborhood"))):
        editor = Mend(
            language_model,
            rank=rank,
            locality_kinds=kinds,
            kl_positions="target",
            statistics_edits=64,
        )
        cpu, wall = timed(editor, data, arguments.steps)
        print(f"| {rank} | {len(kinds)} | {cpu:.1f} | {wall:.1f} | {PEER / cpu:.1f} |", flush=True)


def timed(editor: Mend, data: AtlasData, steps: int) -> tuple[float, float]:
    """CPU and wall ms per example-step."""
    clock = Clock(skip=3)
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


if __name__ == "__main__":
    main()
