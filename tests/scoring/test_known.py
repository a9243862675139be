import json

import pytest

from datamodules.records import Probe, Record, Request
from files.cache import cache_folder
from models import Scores
from scoring import known as module
from scoring.known import fitting, known, says


@pytest.fixture(autouse=True)
def _chunks_of_two_and_a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "CHUNK", 2)


class Sure:
    """Stands for a language model that says one thing to every prompt; keeps what it was asked."""

    name = "sure"

    def __init__(self, language_model, said):
        self.language_model, self.said, self.prompts = language_model, said, []
        self.tokenizer, self.fingerprint = language_model.tokenizer, f"sure-of-{said}"
        self.rendering = language_model.rendering

    def score(self, prompts, targets, **options):
        self.prompts += prompts
        scores = self.language_model.score(prompts, targets)
        said = self.language_model.encode(["x"], [self.said])
        predicted = said.labels[said.labels >= 0]
        scores.predicted[:] = [_like(predicted, target) for target in scores.targets]
        return scores


def _like(predicted, target):
    return predicted if predicted.shape == target.shape else target.roll(1) + 1


def record(index, true):
    return Record(str(index), (Request(f"City{index} is in", f"City{index}", "a lie", true),))


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


EVERY_THIRD = [record(i, "Sweden" if i % 3 else "France") for i in range(12)]


def test_a_limit_is_of_known_records_and_none_is_asked_behind_it(language_model):
    model = Sure(language_model, "France")
    assert known(EVERY_THIRD, model, limit=2) == [EVERY_THIRD[0], EVERY_THIRD[3]]
    assert model.prompts == [r.requests[0].prompt for r in EVERY_THIRD[:4]]
    assert known(EVERY_THIRD, model, limit=1) == EVERY_THIRD[:1]


def test_what_was_asked_is_not_asked_again(language_model):
    first, second = Sure(language_model, "France"), Sure(language_model, "France")
    known(EVERY_THIRD, first, limit=2)
    assert known(EVERY_THIRD, second) == EVERY_THIRD[::3]
    assert first.prompts + second.prompts == [r.requests[0].prompt for r in EVERY_THIRD]
    assert known(EVERY_THIRD, second, limit=3) == EVERY_THIRD[:9:3]
    assert len(second.prompts) == 8


@pytest.mark.parametrize("change", ["model", "question", "answer"])
def test_another_model_or_question_is_asked_anew(language_model, change):
    known(EVERY_THIRD, Sure(language_model, "France"))
    records, model = list(EVERY_THIRD), Sure(language_model, "France")
    if change == "model":
        model.fingerprint = "another"
    if change == "question":
        request = Request("A city that is in", "city", "a lie", "France")
        records[1] = Record("1", (request,))
    if change == "answer":
        records[1] = record(1, "France")
    facts = known(records, model)
    assert len(model.prompts) == len(records)
    assert len(facts) == (4 if change == "model" else 5)


@pytest.mark.parametrize("content", ["", "[1, 0, 1", "{}", '["yes"]'])
def test_a_file_of_answers_that_is_cut_or_no_such_file_is_asked_anew(language_model, content):
    known(EVERY_THIRD, Sure(language_model, "France"))
    (file,) = (cache_folder() / "known").iterdir()
    assert json.loads(file.read_text()) == [1, 0, 0] * 4
    file.write_text(content)
    model = Sure(language_model, "France")
    assert known(EVERY_THIRD, model) == EVERY_THIRD[::3]
    assert len(model.prompts) == 12
    assert json.loads(file.read_text()) == [1, 0, 0] * 4


def test_fewer_known_records_than_asked_for_says_how_many_there_are(language_model):
    message = "'sure' knows the facts of 4 of the 12 records, and limit asks for 5"
    with pytest.raises(ValueError, match=message):
        known(EVERY_THIRD, Sure(language_model, "France"), limit=5)
    with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
        known(EVERY_THIRD, Sure(language_model, "France"), limit=0)


def test_records_fit_if_every_question_does_with_its_answer_and_with_what_is_generated(tiny):
    language_model = tiny("gpt2", max_position_embeddings=24)
    long = Probe("unrelated", "Lagos is in", "Sweden", contrast="France and " * 30 + "Japan")
    records = [record(0, "France"), Record("1", record(1, None).requests, (long,)), record(2, None)]
    length = language_model.lengths(["City0 is in"], None)[0]
    assert fitting(records, language_model, 0) == ([records[0], records[2]], [records[1]])
    assert fitting(records, language_model, 24 - length) == ([records[0], records[2]], [records[1]])
    with pytest.raises(ValueError, match=r"none of the 3 records fits into .*takes 24 tokens"):
        fitting(records, language_model, 25 - length)


def test_a_record_is_known_if_the_truth_of_each_of_its_requests_is(language_model):
    def of(*answers):
        requests = (record(at, true).requests[0] for at, true in enumerate(answers))
        return Record("-".join(map(str, answers)), tuple(requests))

    records = [
        *(of("France", "Sweden"), of("France", "France"), of("France", None), of("France")),
    ]
    assert known(records, Sure(language_model, "France")) == [records[1], records[3]]


def test_aliases_have_to_fit_too(tiny):
    language_model = tiny("gpt2", max_position_embeddings=24)
    long = Probe("one_hop", "Lagos is in", "Sweden", aliases=("Norway", "France and " * 30))
    records = [record(0, "France"), Record("1", record(1, None).requests, (long,))]
    assert fitting(records, language_model, 0) == ([records[0]], [records[1]])


class Edited:
    """Stands for an edited model: row -1 sees one that says France, edit 0 one that says Japan."""

    def __init__(self, language_model):
        self.models = {-1: Sure(language_model, "France"), 0: Sure(language_model, "Japan")}

    def score(self, prompts, targets, *, rows):
        rows = [-1] * len(prompts) if rows is None else rows
        asked = zip(prompts, targets, rows, strict=True)
        each = [self.models[row].score([prompt], [target]) for prompt, target, row in asked]
        return Scores(*([x for one in each for x in getattr(one, n)] for n in NAMES))


NAMES = ("log_probs", "predicted", "targets")


def test_a_model_says_the_target_if_each_token_of_it_is_the_likeliest(language_model):
    requests = [Request("Lagos is in", "Lagos", to) for to in ("France", "Japan", "France Japan")]
    assert says(Sure(language_model, "France"), requests) == [True, False, False]
    assert says(Edited(language_model), requests, rows=[0, 0, 0]) == [False, True, False]
    assert says(Edited(language_model), requests, rows=[-1, 0, -1]) == [True, True, False]
