"""CounterFact (Meng et al., NeurIPS 2022, https://arxiv.org/abs/2202.05262), in two formats.

ROME's, with ten neighbours a record, and EasyEdit's, flat and with one.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules import rewrites, survey
from datamodules.editing import FileData
from datamodules.reading import Fields
from datamodules.records import Probe, Record, RecordError, Request

ROME = ("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts")
EASYEDIT = (
    *("prompt", "subject", "target_new", "ground_truth"),
    *("rephrase_prompt", "locality_prompt", "locality_ground_truth"),
)


class CounterFactData(FileData):
    """CounterFact for ``Trainer``; by default ROME's file, split by subject.

    The format is told by each record's fields. Probes: paraphrases as ``generalization`` (contrast:
    the true object), neighbours as ``neighborhood`` (target: the true object, which they share with
    the subject; contrast: the new one); in ROME's, where a record has such fields, what `survey`
    says of portability and locality.

    Not used: ``attribute_prompts`` (other subjects of which the NEW object is true: ROME draws
    reference texts by them, but scores no answer to them, and an edit that says the new object
    everywhere would pass), and ``generation_prompts`` (they have no expected answer).

    A record's index is in ROME's whole file also its ``case_id``. Blanks at the ends of fields are
    dropped.
    """

    name = "counterfact"
    published: ClassVar = {"train": "https://rome.baulab.info/data/dsets/counterfact.json"}

    def record(self, id: str, fields: Fields) -> Record:
        """The record of an object of either format."""
        return (_rome if "requested_rewrite" in fields else _easyedit)(id, fields)


def _rome(id: str, fields: Fields) -> Record:
    fields.require(*ROME)
    rewrite = fields.inner("requested_rewrite")
    request = rewrites.request(rewrite)
    new, true = request.target, rewrite.inner("target_true").text("str")
    paraphrases = [
        Probe("generalization", prompt, new, true) for prompt in fields.texts("paraphrase_prompts")
    ]
    neighbours = [
        Probe("neighborhood", prompt, true, new) for prompt in fields.texts("neighborhood_prompts")
    ]
    portability = [
        *survey.subject_template(fields, request, rewrites.template(rewrite)),
        *survey.one_hop(fields, request),
    ]
    return Record(
        id,
        (request,),
        (*paraphrases, *portability, *neighbours, *survey.locality(fields, request, true)),
    )


def _easyedit(id: str, fields: Fields) -> Record:
    lacking = [field for field in EASYEDIT if field not in fields]
    if lacking:
        raise RecordError(
            lacking[0],
            f"in neither format: EasyEdit's has {', '.join(lacking)} too, ROME's {', '.join(ROME)}",
        )
    new, true = fields.text("target_new"), fields.text("ground_truth")
    rewrites.differ(new, true, "target_new")
    neighbour = fields.text("locality_ground_truth")
    contrast = new if neighbour.casefold() != new.casefold() else None
    return Record(
        id,
        (Request(fields.text("prompt"), fields.text("subject"), new, true),),
        (
            Probe("generalization", fields.text("rephrase_prompt"), new, true),
            Probe("neighborhood", fields.text("locality_prompt"), neighbour, contrast),
        ),
    )
