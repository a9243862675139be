"""How long SERAC takes to look a question up, and to remember one more edit, by what it holds.

``python benchmarks/serac_lookup.py``: milliseconds of one thread's CPU time, the least of several
rounds. It does not depend on what the classifier has learned, so that it has learned nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from datamodules.records import Request
from editors.memory.serac import Serac
from models.atlas import language_model

SIZES = (1, 10, 100, 1_000, 10_000)
ROUNDS = 30
QUESTION = "Trains leave the main station of Prague for all parts of"


def milliseconds(call: Callable[[], object]) -> float:
    """The least time of a call."""
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return 1e3 * min(found)


def main() -> None:
    torch.set_num_threads(1)
    editor = Serac(language_model(), encoder_blocks=2, pooling="mean").eval()
    requests = [
        Request(f"City number {number} is in", f"number {number}", "Peru")
        for number in range(max(SIZES))
    ]
    one_more = Request("Oslo is a city in", "Oslo", "Peru")
    whole = editor.edit(requests)
    print("| edits | one question | its matrix product | one more edit |")
    print("|---|---|---|---|")
    with torch.no_grad():
        query = editor.models.queries([QUESTION])
        for size in SIZES:
            edit = whole.without([request.prompt for request in requests[size:]])
            cache = edit.caches[0]
            times = [
                milliseconds(lambda edit=edit: edit.scope([QUESTION], [0])),
                milliseconds(
                    lambda edit=edit, cache=cache: editor.models.log_similarity(
                        [QUESTION], query, cache, edit.embedded
                    )
                ),
                milliseconds(lambda edit=edit: editor.edit([one_more], after=edit)),
            ]
            print(f"| {size:,} | {' | '.join(f'{value:.2f}' for value in times)} |")


if __name__ == "__main__":
    main()
