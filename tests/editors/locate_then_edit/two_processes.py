"""Second moments in two processes: ``two_processes.py MODEL FOLDER RANK``."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from samples import CORPUS
from torch import distributed

from editors.locate_then_edit.statistics.moments import Moments, gathered
from models import LanguageModel

if __name__ == "__main__":
    torch.set_num_threads(1)
    model, folder, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    lm = LanguageModel.load(model)
    layers = [lm.layer("mlp_out", block) for block in (0, 1)]
    shared = gathered(lm, layers, Moments(CORPUS), tokens_per_batch=30)
    cached = Moments(CORPUS, folder / "cache").of(lm, layers)  # one batch in all
    tensors = {f"shared {layer}": moment.total for layer, moment in shared.items()}
    tensors |= {f"cached {layer}": moment.total for layer, moment in cached.items()}
    counts = {layer: str(moment.count) for layer, moment in (shared | cached).items()}
    save_file(tensors, folder / f"{rank}.safetensors", metadata=counts)
    distributed.destroy_process_group()
