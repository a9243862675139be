"""Editors are judged in training as reports judge them, at the cost of the kinds that count."""

import pytest
import torch

from datamodules.records import Record
from editors.validation import JUDGED, Validation
from edits import NOTHING
from scoring.questions import Questions
from scoring.scorers import exact_match


@pytest.fixture(scope="module")
def pairs(records):
    """Records of two requests each, and one of three."""
    parts = (records[:2], records[2:4], records[4:])
    return [
        Record("+".join(r.id for r in part), tuple(r.requests[0] for r in part), part[0].probes)
        for part in parts
    ]


@pytest.mark.parametrize("several", [False, True])
def test_shares_are_those_of_the_scorer(several, exact, mend, requests, records, pairs):
    records = pairs if several else records
    editor = mend(exact, edit_lr=0.5).double()
    editor.collect(requests)
    validation, unedited = Validation(), NOTHING.edited(exact)
    edit = editor.make([record.requests for record in records])
    validation.update(exact, edit, records)
    questions = Questions(records, generate=())
    answers = zip(
        questions.probes,
        questions.ask(edit.edited(exact), each=True),
        questions.ask(unedited),
        strict=True,
    )
    shares = {kind: [] for kind in JUDGED}
    for probe, after, before in answers:
        shares[probe.kind].append(exact_match(probe, after, before))
    for kind, values in shares.items():
        mean = torch.tensor(values).mean().item()
        assert validation.metrics[kind].compute().item() == pytest.approx(mean)


def test_neither_contrasts_nor_texts_are_asked(exact, records, monkeypatch):
    rows = []
    score = type(exact).score

    def counted(model, prompts, targets, **options):
        rows.append(len(prompts))
        return score(model, prompts, targets, **options)

    monkeypatch.setattr(type(exact), "score", counted)
    monkeypatch.setattr(type(exact), "generate", None)
    Validation().update(exact, NOTHING, records)
    assert rows == [7, 7, 14, 14, 7, 7]  # local kinds are asked before and after


@pytest.mark.parametrize("joint", [1, 2])
def test_records_of_several_requests_make_an_edit_each(
    joint, language_model, malmen, pairs, trainer, data
):
    editor = malmen(language_model, joint_edits=[joint], statistics_edits=5)
    fitting = trainer(max_steps=2)
    fitting.fit(editor, data(pairs, 3))
    assert torch.isfinite(fitting.callback_metrics["val/score"])
    assert len(editor.make([record.requests for record in pairs])) == 3
