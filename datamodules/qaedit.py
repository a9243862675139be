"""QAEdit (Yang et al., ACL 2025, https://arxiv.org/abs/2502.11177): questions models get wrong.

Fields: ``prompt`` a question of Natural Questions, TriviaQA or SimpleQA (``source``), ``subject``
within it, ``target`` its answer, ``rephrase`` another wording, and ``locality``, a list of other
questions ``loc`` with their answers ``loc_ans``.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.editing import FileData
from datamodules.reading import Fields
from datamodules.records import Probe, Record, Request


class QaeditData(FileData):
    """QAEdit for ``Trainer``; by default the whole file of the hub.

    The request answers the question; what the model said before is not in the file, so
    ``target_true`` is None. Probes: ``rephrase`` as ``generalization``, each ``loc`` as
    ``unrelated``: its right answer is what the unedited model says, not ``loc_ans``.
    """

    name = "qaedit"
    published: ClassVar = {"test": "hub:WenDingY/QAEdit"}

    def record(self, id: str, fields: Fields) -> Record:
        """The record of a question."""
        fields.require("prompt", "subject", "target", "rephrase")
        request = Request(fields.text("prompt"), fields.text("subject"), fields.text("target"))
        return Record(
            id,
            (request,),
            (
                Probe("generalization", fields.text("rephrase"), request.target),
                *fields.usable("locality", _unrelated),
            ),
        )


def _unrelated(part: Fields) -> Probe:
    return Probe("unrelated", part.text("loc"), part.text("loc_ans"))
