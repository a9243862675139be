import json
from math import log

import pytest
from numpy import mean
from safetensors.torch import load_file

from datamodules.records import Probe, Record, Request
from edits.edit import NOTHING
from edits.weights import LowRank, WeightEdit
from evaluation.report.intervals import harmonic_mean
from models import LanguageModel
from scoring.questions import Questions
from scoring.scorers import (
    SCORERS,
    Answer,
    Reading,
    exact_match,
    generation_exact_match,
    probability_difference,
    probability_success,
    token_accuracy,
)

IN_SCOPE = Probe("generalization", "Lagos is in", "West Africa", "Asia")
NEIGHBOR = Probe("neighborhood", "Lagos is in", "West Africa", "Asia")


def answer(predicted=(1, 2, 3), targets=(1, 2, 3), nll=1.0, contrast_nll=None, text=None):
    contrast = None if contrast_nll is None else Reading((), (), contrast_nll)
    return Answer((Reading(targets, predicted, nll),), contrast, text)


def test_in_scope_matches_are_with_the_target():
    before = answer((7, 8, 9))
    assert exact_match(IN_SCOPE, answer((1, 2, 3)), before) == 1
    assert exact_match(IN_SCOPE, answer((1, 2, 4)), before) == 0
    assert token_accuracy(IN_SCOPE, answer((1, 2, 4)), before) == pytest.approx(2 / 3)


def test_locality_matches_are_with_the_unedited_answer_right_or_wrong():
    before = answer((1, 8, 9))
    assert exact_match(NEIGHBOR, answer((1, 8, 9)), before) == 1
    assert exact_match(NEIGHBOR, answer((1, 2, 3)), before) == 0
    assert token_accuracy(NEIGHBOR, answer((1, 2, 3)), before) == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", [IN_SCOPE, NEIGHBOR])
def test_success_is_a_strict_inequality(kind):
    before = answer()
    assert probability_success(kind, answer(nll=1.0, contrast_nll=1.1), before) == 1
    assert probability_success(kind, answer(nll=1.0, contrast_nll=1.0), before) == 0
    assert probability_success(kind, answer(nll=1.1, contrast_nll=1.0), before) == 0


def test_difference_is_of_probabilities_per_token():
    after = answer(nll=-log(0.8), contrast_nll=-log(0.3))
    assert probability_difference(IN_SCOPE, after, answer()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" West Africa", 1),
        ("\n West Africa. It is big", 1),
        (" West Africa\nLagos", 1),
        (" West Africans", 0),
        (" West Africa2", 0),
        (" West", 0),
        (" in West Africa", 0),
        ("", 0),
    ],
)
def test_generated_text_starts_with_the_target_as_whole_words(text, value):
    assert generation_exact_match(IN_SCOPE, answer(text=text), answer(text="x")) == value


def test_locality_compares_the_first_lines_generated():
    before = answer(text=" Europe, I think\nor")
    assert generation_exact_match(NEIGHBOR, answer(text="Europe, I think\nAsia"), before) == 1
    assert generation_exact_match(NEIGHBOR, answer(text=" Europe, I thin"), before) == 0


def test_scorers_that_do_not_apply_say_so():
    said = {name: scorer(IN_SCOPE, answer(), answer()) for name, scorer in SCORERS.items()}
    assert said == {
        "exact_match": 1.0,
        "token_accuracy": 1.0,
        "probability_success": None,
        "probability_difference": None,
        "generation_exact_match": None,
        "found": None,
    }


@pytest.fixture(scope="module")
def official(golden):
    """The official numbers, the model they belong to, and its edit."""
    folder = golden / "other_editors"
    model = LanguageModel.load(str(folder / "model"))
    tensors = load_file(folder / "memit.safetensors")
    updates = {
        model.layer("mlp_out", block): LowRank(
            tensors[f"expected/batch_all/solved_keys/layer_{block}"][None],
            tensors[f"expected/batch_all/residual/layer_{block}"][None],
        )
        for block in json.loads((folder / "memit.json").read_text())["layers"]
    }
    numbers = json.loads((folder / "metrics.json").read_text())["counterfact"]
    return numbers, {
        "pre": NOTHING.edited(model),
        "post": WeightEdit(updates, "memit", model.fingerprint).edited(model),
    }


OFFICIAL_KINDS = {
    "reliability": "rewrite",
    "generalization": "paraphrase",
    "neighborhood": "neighborhood",
}


def official_record(fields) -> Record:
    rewrite = fields["requested_rewrite"]
    new, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
    prompt, subject = rewrite["prompt"].format(rewrite["subject"]), rewrite["subject"]
    probes = [Probe("generalization", p, new, true) for p in fields["paraphrase_prompts"]]
    probes += [Probe("neighborhood", p, true, new) for p in fields["neighborhood_prompts"]]
    return Record(str(fields["case_id"]), (Request(prompt, subject, new, true),), tuple(probes))


@pytest.mark.parametrize("when", ["pre", "post"])
def test_official_likelihoods_and_matches(official, when):
    numbers, models = official
    for case in numbers["cases"]:
        record = official_record(case["record"])
        answers = Questions([record], generate=()).ask(models[when])
        for kind, name in OFFICIAL_KINDS.items():
            said = [a for p, a in zip(record.questions, answers, strict=True) if p.kind == kind]
            likelihoods = case[when][f"{name}_prompts_probs"]
            swapped = kind == "neighborhood"
            for one, theirs in zip(said, likelihoods, strict=True):
                own = (one.contrast.nll, one.nll) if swapped else (one.nll, one.contrast.nll)
                expected = (theirs["target_new"], theirs["target_true"])
                assert own == pytest.approx(expected, abs=1e-4)
            matches = [one.best.exact for one in said]
            assert matches == case[when][f"{name}_prompts_correct"]


@pytest.mark.parametrize("when", ["pre", "post"])
def test_official_summary(official, when):
    numbers, models = official
    summary, successes = numbers["summary_mean_and_std"], []
    records = [official_record(case["record"]) for case in numbers["cases"]]
    for kind, name in OFFICIAL_KINDS.items():
        values = {probability_success: [], probability_difference: []}
        for record in records:
            answers = Questions([record], generate=()).ask(models[when])
            pairs = zip(record.questions, answers, strict=True)
            said = [(probe, one) for probe, one in pairs if probe.kind == kind]
            for scorer, means in values.items():
                means.append(mean([scorer(probe, one, one) for probe, one in said]))
        success, difference = (100 * mean(means) for means in values.values())
        assert success == pytest.approx(summary[f"{when}_{name}_success"][0], abs=0.005)
        assert difference == pytest.approx(summary[f"{when}_{name}_diff"][0], abs=0.01)
        successes.append(success)
    assert harmonic_mean(successes) == pytest.approx(summary[f"{when}_score"][0], abs=0.01)
