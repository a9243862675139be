"""Trains in several processes: ``processes.py MODEL FOLDER STRATEGY``.

Batches, and what is asked, are the same however many processes share them.
"""

import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from datamodules.editing import EditingData
from datamodules.records import Probe, Record, Request
from editors.meta_learning.mend import Mend
from editors.meta_learning.training import HypernetworkTraining
from models import LanguageModel

CITIES = "Gothenburg Lagos Tokyo Warsaw Paris Berlin Stockholm Kano".split()


class Data(EditingData):
    def load(self):
        records = []
        for city in CITIES:
            target = f"the land of {city}"
            probes = (
                Probe("generalization", f"Which country is {city} in? It is in", target),
                Probe("unrelated", f"People in {city} speak", "German"),
            )
            records.append(Record(city, (Request(f"{city} is in", city, target, "Japan"),), probes))
        return {"train": records}


def train(language_model, folder, strategy="auto"):
    """The editor after some steps; ``folder/end.ckpt`` has it too."""
    devices = 1 if strategy == "auto" else 2
    if strategy == "fsdp":
        strategy = ModelParallelStrategy(devices, 1, save_distributed_checkpoint=False)
    L.seed_everything(0, verbose=False)
    module = Mend(
        language_model,
        rank=8,
        training=HypernetworkTraining(statistics="online", lr=1e-3),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_steps=3,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Data(batch_size=4 // devices))
    trainer.save_checkpoint(Path(folder) / "end.ckpt", weights_only=False)
    return module


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, folder, strategy = sys.argv[1:]
    language_model = LanguageModel.load(path)
    train(language_model, folder, strategy)
    parts = [
        isinstance(weight, DTensor)
        for weight in language_model.module("transformer.h").parameters()
    ]
    assert parts == [strategy == "fsdp"] * len(parts)
