"""Whether a model answers in bfloat16 what it answers in float32: ``model.dtype=auto`` takes it.

    python benchmarks/precision.py counterfact_val.json --limit 500

For each record of the file, its true answer after its prompt: the share of records about which both
agree whether the model knows them, how many it knows in each, and the differences of the mean log
probability of a token. Edits in both are runs of ``edit.py`` with ``model.dtype``.
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from datamodules.counterfact import CounterFactData
from models.smollm2 import language_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file")
    parser.add_argument("--limit", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    requests = [r.requests[0] for r in CounterFactData(test=given.file).ordered("test")]
    random.Random(0).shuffle(requests)
    asked = [r for r in requests if r.target_true][: given.limit]
    prompts, truths = [r.prompt for r in asked], [str(r.target_true) for r in asked]
    known, log_p = {}, {}
    for dtype in ("float32", "bfloat16"):
        model = language_model(dtype=dtype)
        started = time.process_time()
        scores = model.score(prompts, truths)
        seconds = time.process_time() - started
        known[dtype] = torch.tensor(scores.exact())
        log_p[dtype] = torch.tensor([float(own.mean()) for own in scores.log_probs])
        count = int(known[dtype].sum())
        print(f"{dtype}: {count} of {len(asked)} known, {1000 * seconds / len(asked):.1f} ms each")
    same = (known["float32"] == known["bfloat16"]).double().mean()
    moved = (log_p["float32"] - log_p["bfloat16"]).abs()
    print(f"the same verdict: {same:.4f}; log probability off by {moved.mean():.3f} nats a token")
    print(f"on average, {moved.max():.2f} at most")


if __name__ == "__main__":
    main()
