"""Further right answers, conditions, probes that are one question, edits that only generate."""

from dataclasses import dataclass

import pytest

from datamodules.records import Probe, Record, Request
from editors.finetune import FineTune
from edits import NOTHING
from edits.edit import Edit
from scoring.answers import Answer, Reading
from scoring.known import knows, says
from scoring.questions import Questions
from scoring.scorers import SCORERS

REQUEST = Request("Lagos is a city in", "Lagos", "Sweden", "Nigeria")
PROMPT, KNOWN = "The mayor of Lagos is", "Japan in Asia"


def record(*probes):
    return Record("0", (REQUEST,), probes)


def asked(model, *probes, generate=()):
    """A model's answers to the probes, as those of the unedited one."""
    return Questions([record(*probes)], generate, 4).before(model)[1:]


@pytest.fixture(scope="module")
def model(language_model):
    return NOTHING.edited(language_model)


@pytest.fixture(scope="module")
def knowing(language_model):
    """A model whose answer to the prompt is `KNOWN`."""
    layers = [language_model.layer("mlp_out", 0)]
    editor = FineTune(language_model, layers=layers, lr=3e-3, steps=60, stop_loss=1e-3)
    return editor.edit([Request(PROMPT, "Lagos", KNOWN)]).edited(language_model)


def test_an_alias_is_read_as_a_target_is(model):
    with_alias, alone, alias = asked(
        model,
        Probe("one_hop", PROMPT, "Sweden", "France", aliases=("Japan in Asia", "Poland")),
        Probe("one_hop", PROMPT, "Sweden", "France"),
        Probe("one_hop", PROMPT, "Japan in Asia"),
    )
    assert len(with_alias.readings) == 3
    assert with_alias.readings[0].targets == alone.readings[0].targets
    assert with_alias.readings[0].nll == pytest.approx(alone.readings[0].nll, abs=1e-5)
    assert with_alias.readings[1].targets == alias.readings[0].targets
    assert with_alias.readings[1].nll == pytest.approx(alias.readings[0].nll, abs=1e-5)
    assert with_alias.contrast.nll == pytest.approx(alone.contrast.nll, abs=1e-5)


def test_the_best_of_several_right_answers_counts(knowing):
    wrong, right = asked(
        knowing,
        Probe("one_hop", PROMPT, "Sweden"),
        Probe("one_hop", PROMPT, "Sweden", aliases=("Poland", KNOWN)),
        generate=("one_hop",),
    )
    probes = Probe("one_hop", PROMPT, "Sweden"), Probe("one_hop", PROMPT, "Sweden", None, (KNOWN,))
    for name in ("exact_match", "token_accuracy", "generation_exact_match"):
        assert SCORERS[name](probes[0], wrong, wrong) < SCORERS[name](probes[1], right, right) == 1
    assert right.best.exact and right.best is right.readings[2]


def reading(nll, exact=False):
    return Reading((1, 2), (1, 2) if exact else (1, 3), nll)


def test_what_is_matched_counts_before_what_is_likely():
    answer = Answer((reading(0.5), reading(0.9, exact=True), reading(0.7, exact=True)))
    assert answer.best is answer.readings[2]
    assert answer.nll == 0.5
    assert Answer((reading(2.0), reading(1.0))).best.nll == 1.0
    assert Answer().best is None and Answer().nll is None


def test_probabilities_are_those_of_the_likeliest_right_answer():
    probe = Probe("one_hop", PROMPT, "Sweden", "France", aliases=("Svea",))
    answer = Answer((reading(2.0), reading(1.0)), contrast=reading(1.5))
    assert SCORERS["probability_success"](probe, answer, answer) == 1
    assert SCORERS["probability_difference"](probe, answer, answer) > 0


def test_locality_keeps_to_what_the_unedited_model_says_about_the_target():
    probe = Probe("neighborhood", PROMPT, "Sweden", aliases=("Svea",))
    before = Answer((Reading((1, 2), (3, 4), 1.0), Reading((5,), (5,), 1.0)))
    kept = Answer((Reading((1, 2), (3, 4), 1.0), Reading((5,), (6,), 1.0)))
    lost = Answer((Reading((1, 2), (1, 2), 1.0), Reading((5,), (5,), 1.0)))
    assert SCORERS["exact_match"](probe, kept, before) == 1
    assert SCORERS["exact_match"](probe, lost, before) == 0


def test_a_probe_that_presumes_what_the_model_does_not_know_says_so(knowing):
    condition, other = (PROMPT, KNOWN), (PROMPT, "Sweden")
    answers = asked(
        knowing,
        Probe("one_hop", PROMPT, "Sweden"),
        Probe("one_hop", PROMPT, "Sweden", known=(condition,)),
        Probe("one_hop", PROMPT, "Sweden", known=(condition, other)),
    )
    assert [answer.knows for answer in answers] == [True, True, False]
    assert knows(knowing, [condition, other]) == [True, False]


def test_says_is_of_every_token_of_a_request(knowing):
    targets = (KNOWN, "Japan in Sweden", "Sweden")
    requests = [Request(PROMPT, "Lagos", target) for target in targets]
    assert says(knowing, requests) == [True, False, False]
    assert says(knowing, requests, rows=[-1, 0, 0]) == [False] * 3


@dataclass(frozen=True)
class Speaker(type(NOTHING)):
    """It only generates."""

    scores = False


def test_an_edit_that_only_generates_is_judged_by_its_texts(language_model, model):
    probes = (Probe("one_hop", PROMPT, "Sweden"), Probe("unrelated", PROMPT, "Sweden"))
    questions = Questions([record(*probes)], ("one_hop", "unrelated"), 4)
    before = questions.before(model)
    speaker: Edit = Speaker()
    after = questions.ask(speaker.edited(language_model))
    assert [answer.readings for answer in after] == [()] * 3
    assert [answer.text for answer in after] == [answer.text for answer in before]
    for probe, new, old in zip(questions.probes, after, before, strict=True):
        values = {name: scorer(probe, new, old) for name, scorer in SCORERS.items()}
        spoken = values["generation_exact_match"]
        assert (spoken is None) == (probe.kind == "reliability")
        judged = {name for name, value in values.items() if value is not None}
        assert all(SCORERS[name].needs == "text" for name in judged)


def test_free_answers_are_as_long_as_the_longest_right_one(language_model, model):
    long = "Sweden and France and Japan and Poland"
    probe = Probe("one_hop", PROMPT, "Sweden", aliases=(long,))
    [answer] = asked(model, probe, generate=("one_hop",))
    tokens = language_model.answer_lengths([PROMPT], [long])[0] + 1
    assert tokens > 4
    assert [answer.text] == language_model.generate([PROMPT], max_new_tokens=tokens)


def test_scorers_say_what_they_are():
    assert [scorer.name for scorer in SCORERS.values()] == list(SCORERS)
    assert [name for name, scorer in SCORERS.items() if scorer.needs == "scores"] == [
        *("exact_match", "token_accuracy", "probability_success", "probability_difference"),
        "likelihood_success",
    ]
    worse = {name for name, scorer in SCORERS.items() if not scorer.higher_is_better}
    assert worse == {"says_old", "says_new", "repeats_itself"}
    for scorer in SCORERS.values():
        assert scorer.description.endswith((".", "else 0."))
        best, worst = (1.0, 0.0) if scorer.higher_is_better else (0.0, 1.0)
        assert scorer.best([0.0, 1.0, 0.5]) == best and scorer.worst([0.0, 1.0, 0.5]) == worst
