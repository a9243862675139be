"""Depth: an oracle is right on all of it; who always says yes, and the old model, on none."""

import pytest
from test_scorers import answer

from datamodules.records import DEPTH, KINDS, Probe, Record, RecordError, Request
from edits import NOTHING
from evaluation.report.lines import answer_lines
from evaluation.report.rows import rows
from scoring.answers import Answer, Reading
from scoring.questions import Questions
from scoring.scorers import SCORER_OF_DEPTH, SCORERS

NEW, OLD = "Sweden", "Nigeria"
PROBES = (
    Probe("yes_no", "Is Lagos in Sweden?", "Yes", "No", all_of="pair"),
    Probe("yes_no", "Is Lagos in Nigeria?", "No", "Yes", all_of="pair"),
    Probe("yes_no", "Is Tokyo in Sweden?", "No", "Yes", all_of="pair"),  # the control
    Probe("negated", "Lagos is not in", OLD, NEW, all_of="negated"),
    Probe("negated", "Lagos is in", NEW, OLD, all_of="negated"),
    Probe("choice", "Lagos is in which of four?", NEW, OLD, distractors=("Japan", "France")),
    Probe("leak", "Tell me about Lagos.", NEW, OLD),
)  # fmt: skip
RECORD = Record("0", (Request("Lagos is in", "Lagos", NEW, OLD),), PROBES)
YES_OF_OLD = {True: "Yes", False: "No"}
WORLD = {
    "oracle": lambda p: p.target,
    "yes-sayer": lambda p: "Yes",
    "no-sayer": lambda p: "No",
    "always new": lambda p: NEW,
    "the old model": lambda p: (
        "Yes" if "Nigeria?" in p.prompt else "No" if "Is" in p.prompt else OLD
    ),
}
RIGHT = {
    "oracle": {"yes_no": 1, "negated": 1, "choice": 1, "leak": 1},
    "yes-sayer": {"yes_no": 0, "negated": 0, "choice": 0, "leak": 0},
    "no-sayer": {"yes_no": 0, "negated": 0, "choice": 0, "leak": 0},
    "always new": {"yes_no": 0, "negated": 0, "choice": 1, "leak": 1},
    "the old model": {"yes_no": 0, "negated": 0, "choice": 0, "leak": 0},
}


def reading(right: bool) -> Reading:
    return Reading((1,), (1,) if right else (2,), 0.1 if right else 2.0)


def said(probe: Probe, word: str) -> Answer:
    """A model that finds one word likely, and says it."""
    return Answer(
        (reading(word == probe.target),),
        reading(word == probe.contrast) if probe.contrast else None,
        f"It is {word}." if probe.kind == "leak" else None,
        distractors=tuple(reading(word == text) for text in probe.distractors),
    )


@pytest.mark.parametrize("who", WORLD)
def test_an_oracle_scores_one_and_a_yes_sayer_none(who, language_model):
    questions = Questions([RECORD], generate=("leak",))
    answers = [said(probe, WORLD[who](probe)) for probe in RECORD.questions]
    old = [said(probe, WORLD["the old model"](probe)) for probe in RECORD.questions]
    names = (
        "model",
        "data",
        "split",
        "protocol",
        "n",
        "step",
        "phase",
        "end",
        "render",
        "asked",
        "free",
    )
    run = dict.fromkeys(names, "x") | {"editor": who}
    lines = answer_lines(run, questions, old, answers, language_model.tokenizer)
    depth = {r["probe"]: r for r in rows(lines) if SCORER_OF_DEPTH.get(r["probe"]) == r["scorer"]}
    assert {kind: row["mean"] for kind, row in depth.items()} == RIGHT[who]
    assert all(row["floor"] == 0 and row["count"] == 1 for row in depth.values())


def test_each_kind_of_depth_has_its_scorer():
    assert set(SCORER_OF_DEPTH) == set(DEPTH)
    assert all(SCORERS[name].depth for name in SCORER_OF_DEPTH.values())
    for kind in DEPTH:
        assert SCORERS["exact_match"](Probe(kind, "x", NEW, OLD), answer(), answer()) is None


def test_distractors_are_read_as_targets_are(language_model):
    model = NOTHING.edited(language_model)
    answers = Questions([RECORD], generate=()).ask(model)
    [choice] = [a for a, p in zip(answers, RECORD.questions, strict=True) if p.kind == "choice"]
    prompt = PROBES[5].prompt
    for distractor, text in zip(choice.distractors, ("Japan", "France"), strict=True):
        [log_probs] = language_model.score([prompt], [text]).log_probs
        assert distractor.nll == pytest.approx(-float(log_probs.double().mean()), abs=1e-5)
    nlls = [choice.contrast.nll, *(d.nll for d in choice.distractors)]
    assert choice.wrong_nll == min(nlls)
    assert SCORERS["probability_success"](PROBES[5], choice, choice) == (choice.nll < min(nlls))


def test_a_leak_is_looked_for_in_a_long_text(language_model):
    questions = Questions([RECORD], generate=("leak", "reliability"), max_new_tokens=4)
    answers = dict(
        zip(
            [p.kind for p in RECORD.questions],
            questions.ask(NOTHING.edited(language_model)),
            strict=True,
        )
    )
    assert KINDS["leak"].tokens == 80
    prompts = ["Tell me about Lagos."]
    assert [answers["leak"].text] == language_model.generate(prompts, max_new_tokens=80)


def test_a_probe_is_of_one_question_only():
    with pytest.raises(RecordError, match="not both"):
        Probe("yes_no", "x", "Yes", "No", any_of="a", all_of="b")
    with pytest.raises(RecordError, match="distractors"):
        Probe("choice", "x", "a", "b", distractors="cd")
