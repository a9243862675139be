"""What is saved by reading once what an edit's questions begin with.

``python -m benchmarks.prefixes atlas``, or ``smollm2``: IKE on records of Atlas, each question
behind the demonstrations of its edit; CPU seconds of one thread for the answers to all questions of
an edit, with and without sharing, and how far the two are apart.
"""

from __future__ import annotations

import argparse
import time

import torch

from datamodules.atlas.data import AtlasData
from datamodules.pool import Pool
from editors.memory.demonstrations import Demonstrations
from editors.memory.in_context import IKE, InContext
from edits.context import ContextEdit
from models import atlas, smollm2
from models.language_model import LanguageModel
from models.prefixes import Prefixed
from models.pretraining import lengthened
from models.scores import Scores

POSITIONS = 2048  # of the shipped model of Atlas, for as many demonstrations


def reader(name: str) -> LanguageModel:
    """One of the two models."""
    if name == "smollm2":
        return smollm2.language_model(attention="sdpa")
    return lengthened(atlas.language_model(), positions=POSITIONS, name=name)


def measured(edit: ContextEdit, model: LanguageModel, prompts: list[str], targets: list[str]):
    """Seconds without sharing, seconds with it, and the largest difference in nats."""
    [route] = edit.routes(model, prompts, None)
    assert isinstance(route.reader, Prefixed)
    answers: list[Scores] = []
    seconds = []
    for asked in (model, route.reader):
        start = time.thread_time()
        answers.append(asked.score(route.prompts, targets))
        seconds.append(time.thread_time() - start)
    pairs = zip(*(scores.log_probs for scores in answers), strict=True)
    return (*seconds, max(float((one - other).abs().max()) for one, other in pairs))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=("atlas", "smollm2"))
    parser.add_argument("--edits", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, data = reader(arguments.model), AtlasData()
    pool = Pool(data, "train", 500)
    print(
        "| demonstrations | tokens in front | questions | seconds | shared | times | nats apart |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in (4, 16, 32):
        editor = InContext(model, layout=IKE, demonstrations=Demonstrations(count=count), pool=pool)
        rows, tokens, asked = [], [], []
        for record in data.records("test", arguments.edits):
            edit = editor.edit(record.requests)
            probes = record.questions
            prompts, targets = [p.prompt for p in probes], [p.target for p in probes]
            rows.append(measured(edit, model, prompts, targets))
            [fact] = edit.memories[0]
            tokens += model.lengths(["".join(fact.demonstrations)], None)
            asked.append(len(probes))
        alone, shared = (sum(row[i] for row in rows) / len(rows) for i in range(2))
        values = (count, f"{sum(tokens) / len(tokens):.0f}", f"{sum(asked) / len(asked):.1f}")
        apart = f"{max(row[2] for row in rows):.1e}"
        print(*values, f"{alone:.2f}", f"{shared:.2f}", f"{alone / shared:.1f}", apart, sep=" | ")


if __name__ == "__main__":
    main()
