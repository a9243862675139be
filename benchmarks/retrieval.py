"""What is found among remembered facts: ``python -m benchmarks.retrieval [--split val]``.

The shares of questions of each kind for which a memory of some hundred facts of Atlas holds a near
one, by what questions are compared with; thresholds let five per cent of the foreign questions of
the pool (train) pass, as `editors.memory.thresholds` has it. What is about another fact of the
memory counts for nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from datamodules.atlas.data import AtlasData
from datamodules.pool import Pool
from datamodules.records import Record, requests_of
from editors.memory.in_context import MEMPROMPT, InContext
from edits.context import ContextEdit
from edits.layout import Layout
from models import atlas
from models.language_model import LanguageModel

KINDS = ("reliability", "generalization", "subject_alias")
KINDS += ("neighborhood", "unrelated", "other_relation")


def ways(model: LanguageModel, pool: Pool, retrievers: Sequence[str | None]):
    """Editors that look facts up, by name."""
    mentioned = Layout(choose="nearest", among="mentioned", key="prompt")
    yield "spelling, distance 6", InContext(model, layout=MEMPROMPT)
    yield "subject", InContext(model, layout=mentioned)
    for retriever in retrievers:
        name = retriever or "own states"
        for key in ("prompt", "sentence"):
            layout = Layout(choose="nearest", key=key)
            settings = {"pool": pool, "retriever": retriever, "false_hits": 0.05}
            yield f"{name}, {key}", InContext(model, layout=layout, **settings)
        settings = {"pool": pool, "retriever": retriever, "false_hits": 0.05}
        yield f"{name}, prompt, and subject", InContext(model, layout=mentioned, **settings)


def shares(edit: ContextEdit, model: LanguageModel, records: Sequence[Record]) -> list[float]:
    """The share of each kind's questions for which something is found.

    In scope the nearest fact has to be that of the question; out of it no subject of another
    record may be mentioned.
    """
    subjects = [record.requests[0].subject for record in records]
    values = []
    for kind in KINDS:
        asked = [
            (record.requests[0].prompt, probe.prompt)
            for record in records
            for probe in record.of_kind(kind)
            if kind in KINDS[:3]
            or not any(s in probe.prompt for s in subjects if s != record.requests[0].subject)
        ]
        chosen = edit.chosen(model, [question for _, question in asked], [0] * len(asked))
        hits = [
            any(fact.prompt == own for fact in facts) if kind in KINDS[:3] else bool(facts)
            for (own, _), facts in zip(asked, chosen, strict=True)
        ]
        values.append(sum(hits) / max(1, len(hits)))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", default="val")
    parser.add_argument("--facts", type=int, default=500)
    parser.add_argument("--model", default=None, help="folder; by default the shipped model")
    parser.add_argument("--retrievers", nargs="*", default=["minilm"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = LanguageModel.load(arguments.model) if arguments.model else atlas.language_model()
    data = AtlasData()
    records, pool = data.records(arguments.split, arguments.facts), Pool(data, "train", 1000)
    print("|", " | ".join(("compared", *KINDS)), "|")
    print("|" + "---|" * (1 + len(KINDS)))
    for name, editor in ways(model, pool, [None, *arguments.retrievers]):
        edit = editor.edit(requests_of(records))
        row = (f"{value:.3f}" for value in shares(edit, model, records))
        print("|", " | ".join((name, *row)), "|", flush=True)


if __name__ == "__main__":
    main()
