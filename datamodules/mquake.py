"""MQuAKE (Zhong et al., EMNLP 2023, https://arxiv.org/abs/2305.14795): questions over many hops.

Fields: ``requested_rewrite`` a list of rewrites as CounterFact has them, each also with its
``question``; three wordings ``questions`` of one question, whose answer changes from ``answer`` to
``new_answer`` (with ``answer_alias``, ``new_answer_alias``); ``new_single_hops``, the facts on the
way to it after the edits, each with ``question``, ``cloze``, ``answer`` and ``answer_alias``.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules import rewrites
from datamodules.editing import FileData
from datamodules.legible import same
from datamodules.reading import Fields
from datamodules.records import Probe, Record, RecordError, Request


class MquakeData(FileData):
    """MQuAKE, its remastered files too, for ``Trainer``; by default MQuAKE-CF-3k.

    All rewrites of a case are the requests of one record. Probes: each rewrite's ``question`` as
    ``generalization``, with the aliases of the hop that it makes true; the three ``questions`` as
    one ``one_hop`` question in several wordings (``any_of``), of as many ``hops`` as the case has.

    Args:
        *files: as FileData takes them.
        known_hops: judge a case only where the unedited model knows those facts on the way that
            no request changes; not so in the paper, whose cases are made for GPT-J.
        **options: as FileData takes them.
    """

    name = "mquake"
    published: ClassVar = {
        "test": "https://raw.githubusercontent.com/princeton-nlp/MQuAKE/main/datasets/"
        "MQuAKE-CF-3k.json"
    }

    def __init__(self, *files, known_hops: bool = False, **options):
        super().__init__(*files, **options)
        self.known_hops = known_hops

    def record(self, id: str, fields: Fields) -> Record:
        """The record of a case."""
        fields.require("requested_rewrite", "questions", "new_answer", "new_single_hops")
        hops = list(fields.each("new_single_hops"))
        requests, probes = [], []
        for rewrite in fields.each("requested_rewrite"):
            request = rewrites.request(rewrite)
            requests.append(request)
            if rewrite.has("question"):
                probes.append(_single(rewrite.text("question"), request, hops))
        if not requests:
            raise RecordError("requested_rewrite", "expected rewrites, got none")
        return Record(id, tuple(requests), (*probes, *self._questions(fields, requests, hops)))

    def _questions(
        self, fields: Fields, requests: list[Request], hops: list[Fields]
    ) -> list[Probe]:
        new, aliases = fields.text("new_answer"), _aliases(fields, "new_answer_alias")
        old = fields.text("answer") if fields.has("answer") else None
        contrast = None if old is None or same(old, new) else old
        known = tuple(_unchanged(hops, requests)) if self.known_hops else ()
        return [
            Probe("one_hop", wording, new, contrast, aliases, known, "hops", hops=len(hops))
            for wording in fields.texts("questions")
        ]


def _single(question: str, request: Request, hops: list[Fields]) -> Probe:
    """The question of a rewrite, with the aliases of the hop that asks for the same."""
    aliases = ()
    for hop in hops:
        if same(hop.text("answer"), request.target):
            aliases = _aliases(hop, "answer_alias")
    return Probe("generalization", question, request.target, request.target_true, aliases)


def _unchanged(hops: list[Fields], requests: list[Request]) -> list[tuple[str, str]]:
    """The facts on the way that no request makes true."""
    prompts = {request.prompt for request in requests}
    pairs = [(hop.text("cloze"), hop.text("answer")) for hop in hops]
    return [(prompt, answer) for prompt, answer in pairs if prompt not in prompts]


def _aliases(fields: Fields, name: str) -> tuple[str, ...]:
    return fields.answers(name) if fields.has(name) else ()
