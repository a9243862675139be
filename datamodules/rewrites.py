"""``requested_rewrite`` of ROME's CounterFact and of MQuAKE: a request as a template."""

from __future__ import annotations

from datamodules.legible import same
from datamodules.reading import Fields
from datamodules.records import RecordError, Request


def template(rewrite: Fields) -> str:
    """Its prompt, in which ``{}`` stands for the subject.

    Raises:
        RecordError: it does not stand there, or more than once.
    """
    prompt = rewrite.text("prompt")
    if prompt.count("{}") != 1:
        raise RecordError(f"{rewrite.place}.prompt", f"expected one {{}}, got {prompt!r}")
    return prompt


def request(rewrite: Fields) -> Request:
    """The request: ``target_new.str`` in place of ``target_true.str``.

    Raises:
        RecordError: a field is missing or of another form, or both targets are the same.
    """
    rewrite.require("prompt", "subject", "target_new", "target_true")
    subject = rewrite.text("subject")
    prompt = template(rewrite).replace("{}", subject)
    new, true = rewrite.inner("target_new").text("str"), rewrite.inner("target_true").text("str")
    differ(new, true, f"{rewrite.place}.target_new.str")
    return Request(prompt, subject, new, true)


def differ(new: str, true: str, place: str) -> None:
    """Raises RecordError where there is nothing to change."""
    if same(new, true):
        raise RecordError(place, f"{new!r} is the true object already")
