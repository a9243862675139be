"""What every edit can be asked, and the edit that changes nothing."""

import pytest
import torch
from random_edits import random_edit

from edits import NOTHING, Edit, Route, load

PROMPTS = ["Lagos is a city in", "The capital of Sweden is", "Tokyo is"]
TARGETS = ["Nigeria", "Stockholm", "the capital of Japan"]


class Rerouted(Edit):
    """Lets another model answer some prompts; what it generates tells who was asked."""

    kind, editor = "rerouted", "tests"

    def __init__(self, routes, model):
        self._routes, self.model = routes, model

    def __len__(self):
        return 1

    def select(self, index):
        return self

    def routes(self, language_model, prompts, rows):
        return [Route(index, [prompts[i] for i in index], None, m) for index, m in self._routes]

    def state(self):
        return {}, {}

    @classmethod
    def of_state(cls, header, tensors, source):
        raise NotImplementedError


def test_nothing_is_the_model_to_the_bit(language_model, tmp_path):
    unedited = NOTHING.edited(language_model)
    plain = language_model.score(PROMPTS, TARGETS)
    for rows in (None, [-1, -1, -1]):
        scores = unedited.score(PROMPTS, TARGETS, rows=rows)
        assert all(map(torch.equal, scores.log_probs, plain.log_probs))
        assert unedited.generate(PROMPTS, rows=rows) == language_model.generate(PROMPTS)
    NOTHING.save(tmp_path / "nothing")
    assert load(tmp_path / "nothing", language_model) is NOTHING
    edit = random_edit(language_model)
    assert NOTHING.plus(edit) is edit
    assert NOTHING.size(language_model) == {}


def test_of_routes_that_share_a_prompt_the_last_one_answers(language_model, tiny):
    other, third = tiny("gpt2", seed=1), tiny("gpt2", seed=2)
    edit = Rerouted([([0, 1, 2], None), ([2, 0], other), ([0], third)], language_model.fingerprint)
    edited = edit.edited(language_model)
    scores, texts = edited.score(PROMPTS, TARGETS), edited.generate(PROMPTS)
    for at, model in enumerate((third, language_model, other)):
        alone = model.score([PROMPTS[at]], [TARGETS[at]])
        torch.testing.assert_close(scores.log_probs[at], alone.log_probs[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(scores.targets[at], alone.targets[0])
        assert texts[at] == model.generate([PROMPTS[at]])[0]


def test_what_is_overridden_is_not_generated(language_model, tiny, monkeypatch):
    asked = []
    other, generate = tiny("gpt2", seed=1), type(language_model).generate

    def counted(self, prompts, **options):
        asked.append(list(prompts))
        return generate(self, prompts, **options)

    monkeypatch.setattr(type(language_model), "generate", counted)
    edit = Rerouted([([0, 1, 2], None), ([2, 0], other)], language_model.fingerprint)
    edit.edited(language_model).generate(PROMPTS)
    assert asked == [[PROMPTS[1]], [PROMPTS[2], PROMPTS[0]]]


def test_edits_that_only_generate_say_so(language_model):
    edit = Rerouted([([0, 1, 2], None)], language_model.fingerprint)
    edit.scores = False
    with pytest.raises(ValueError, match="an edit of tests generates answers; it scores none"):
        edit.edited(language_model).score(PROMPTS, TARGETS)


def test_what_an_edit_has_not_is_refused_by_name(language_model, tmp_path):
    edit = Rerouted([], language_model.fingerprint)
    refused = {
        "cannot be added to another one": lambda: edit.plus(NOTHING),
        "single requests cannot be taken out": lambda: edit.without(["Lagos"]),
        "so it cannot be merged": lambda: edit.merge(language_model, tmp_path),
        "cannot be exported as an adapter": lambda: edit.export(language_model, tmp_path),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=f"an edit of tests.*{message}|{message}.*of tests"):
            call()
