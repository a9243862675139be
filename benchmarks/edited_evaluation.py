"""Time of asking edited models, against the bare forward passes over the same rows.

    python benchmarks/edited_evaluation.py

Each of N records has its own edit; all probes of all records are answered in one batch. Printed for
low-rank edits of MEND's size (every matrix of three blocks) and for ROME's (rank one, one matrix).
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from datamodules.atlas.data import AtlasData
from edits.edit import NOTHING
from edits.updates import LowRank
from edits.weights import WeightEdit
from models.atlas import language_model as atlas
from scoring.questions import Questions


def random_edit(language_model, layers: list[str], count: int, rank: int) -> WeightEdit:
    updates = {}
    for layer in layers:
        d_in, d_out = language_model.shape(layer)
        updates[layer] = LowRank(
            1e-3 * torch.randn(count, d_in, rank), torch.randn(count, rank, d_out)
        )
    return WeightEdit(updates, "random", language_model.fingerprint)


def seconds(ask) -> float:
    started = time.process_time()
    ask()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = atlas()
    records = AtlasData(limit=arguments.records).records("test")
    questions = Questions(records, generate=(), max_new_tokens=1)
    last = range(max(0, model.blocks - 3), model.blocks)
    mend = [model.layer(role, block) for block in last for role in ("mlp_in", "mlp_out")]
    edits = {
        "MEND-like, rank 12": random_edit(model, mend, len(records), 12),
        "ROME-like, rank 1": random_edit(model, mend[1:2], len(records), 1),
    }
    bare_model = NOTHING.edited(model)
    questions.ask(bare_model)  # tokenises once, as a run does
    for name, edit in edits.items():
        edited = edit.edited(model)
        ratios = []
        for _ in range(arguments.runs):
            bare = seconds(lambda: questions.ask(bare_model))
            ratios.append(seconds(lambda edited=edited: questions.ask(edited, each=True)) / bare)
        low, high = min(ratios), max(ratios)
        print(
            f"{name}: edited / bare = {median(ratios):.2f} ({low:.2f} to {high:.2f}), CPU seconds"
        )
    print(f"{len(questions.probes)} probes of {len(records)} records, threads {arguments.threads}")


if __name__ == "__main__":
    main()
