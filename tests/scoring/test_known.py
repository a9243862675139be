import pytest

from datamodules.records import Probe, Record, Request
from models import Scores
from scoring.known import fitting, known, says


class Sure:
    """Stands for a language model that says one thing to every prompt."""

    name = "sure"

    def __init__(self, language_model, said):
        self.language_model, self.said = language_model, said

    def score(self, prompts, targets):
        scores = self.language_model.score(prompts, targets)
        said = self.language_model.encode(["x"], [self.said])
        predicted = said.labels[said.labels >= 0]
        scores.predicted[:] = [_like(predicted, target) for target in scores.targets]
        return scores


def _like(predicted, target):
    return predicted if predicted.shape == target.shape else target.roll(1) + 1


def record(index, true):
    return Record(str(index), Request(f"City{index} is in", f"City{index}", "a lie", true))


def test_known_are_records_whose_true_answer_is_the_models_in_order(language_model):
    records = [record(0, "France"), record(1, "Sweden"), record(2, "France"), record(3, None)]
    assert known(records, Sure(language_model, "France")) == [records[0], records[2]]


def test_an_answer_counts_only_if_each_of_its_tokens_is_right(language_model):
    said = "Sweden and France"
    records = [record(0, said), record(1, "Sweden and Japan"), record(2, "Sweden")]
    assert known(records, Sure(language_model, said)) == records[:1]


def test_knowing_none_is_an_error(language_model):
    with pytest.raises(ValueError, match="'sure' knows the fact of none of the 2 records"):
        known([record(0, "Japan"), record(1, None)], Sure(language_model, "Poland"))
    with pytest.raises(ValueError, match="none of the 1 records"):
        known([record(1, None)], language_model)


def test_records_fit_if_every_question_does_with_its_answer_and_with_what_is_generated(tiny):
    language_model = tiny("gpt2", max_position_embeddings=24)
    long = Probe("unrelated", "Lagos is in", "Sweden", contrast="France and " * 30 + "Japan")
    records = [record(0, "France"), Record("1", record(1, None).request, (long,)), record(2, None)]
    length = language_model.lengths(["City0 is in"], None)[0]
    assert fitting(records, language_model, 0) == ([records[0], records[2]], [records[1]])
    assert fitting(records, language_model, 24 - length) == ([records[0], records[2]], [records[1]])
    with pytest.raises(ValueError, match=r"none of the 3 records fits into .*takes 24 tokens"):
        fitting(records, language_model, 25 - length)


class Edited:
    """Stands for an edited model: row -1 sees one that says France, edit 0 one that says Japan."""

    def __init__(self, language_model):
        self.models = {-1: Sure(language_model, "France"), 0: Sure(language_model, "Japan")}

    def score(self, prompts, targets, *, rows):
        asked = zip(prompts, targets, rows, strict=True)
        each = [self.models[row].score([prompt], [target]) for prompt, target, row in asked]
        return Scores(*([x for one in each for x in getattr(one, n)] for n in NAMES))


NAMES = ("log_probs", "predicted", "targets")


def test_a_model_says_the_target_if_each_token_of_it_is_the_likeliest(language_model):
    requests = [Request("Lagos is in", "Lagos", to) for to in ("France", "Japan", "France Japan")]
    assert says(Sure(language_model, "France"), requests) == [True, False, False]
    assert says(Edited(language_model), requests, rows=[0, 0, 0]) == [False, True, False]
    assert says(Edited(language_model), requests, rows=[-1, 0, -1]) == [True, True, False]
