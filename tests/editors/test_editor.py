"""The interface that every editor fulfils: groups of requests in, one edit for each out."""

from dataclasses import dataclass

import pytest
import torch

from datamodules.records import Request
from editors.editor import Editor
from editors.finetune import FineTune
from edits.edit import NOTHING
from edits.updates import LowRank
from edits.weights import WeightEdit

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "the city of Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
]


class Remembering(Editor[WeightEdit]):
    """Edits of rank 1 that say how many requests they hold; notes what it is asked to do."""

    def __init__(self, language_model, *, scale=1.0):
        self.language_model, self.scale = language_model, scale
        self.log = []

    def prepare(self):
        self.log.append("prepare")
        self.statistics = torch.ones(3)

    def compute(self, groups, after):
        self.log.append([len(group) for group in groups])
        layer = self.language_model.layer("mlp_out", 0)
        d_in, d_out = self.language_model.shape(layer)
        sizes = torch.tensor([float(len(group)) for group in groups])
        left = self.scale * sizes[:, None, None].expand(-1, d_in, 1)
        update = LowRank(left, torch.ones(len(groups), 1, d_out))
        edit = WeightEdit({layer: update}, self.name, self.language_model.fingerprint)
        return edit if after is None else after.plus(edit)


@pytest.fixture
def editor(language_model):
    return Remembering(language_model)


def test_an_editor_is_named_after_its_method(editor):
    assert Remembering.name == editor.name == "remembering"


def test_an_editor_must_compute():
    with pytest.raises(TypeError, match="compute"):
        Editor()


def test_preparing_is_nothing_by_default(language_model):
    assert FineTune(language_model).prepare() is None


def test_each_group_gets_its_edit(editor):
    edit = editor.make([REQUESTS, REQUESTS[:1], REQUESTS[1:]])
    assert len(edit) == 3
    assert editor.log == ["prepare", [3, 1, 2]]


def test_edit_is_one_group_and_edit_each_are_groups_of_one(editor):
    assert len(editor.edit(REQUESTS)) == 1
    assert len(editor.edit_each(REQUESTS)) == 3
    assert editor.log == ["prepare", [3], "prepare", [1, 1, 1]]


def test_an_edit_after_another_holds_both(editor):
    (first, second), layer = [editor.edit(REQUESTS[:2]), editor.edit(REQUESTS[2:])], "mlp_out"
    both = editor.edit(REQUESTS[2:], after=first)
    name = editor.language_model.layer(layer, 0)
    total = first.updates[name].dense() + second.updates[name].dense()
    torch.testing.assert_close(both.updates[name].dense(), total)


@pytest.mark.parametrize("groups", [[], [[]], [REQUESTS, []]])
def test_without_requests_there_is_nothing_to_do(editor, groups):
    with pytest.raises(ValueError, match="no requests to edit for"):
        editor.make(groups)
    assert editor.log == []


@pytest.mark.parametrize("after", [[0], [0, 1]])
def test_one_edit_goes_on_with_one_group(editor, after):
    edit = editor.edit_each(REQUESTS).select(after)
    groups = [REQUESTS[:1], REQUESTS[1:]][: 3 - len(after)]
    with pytest.raises(ValueError, match=f"one edit goes on, got {len(after)} for {len(groups)}"):
        editor.make(groups, after=edit)


def test_an_edit_of_another_model_does_not_go_on(editor, tiny):
    other = Remembering(tiny("gpt2", seed=1)).edit(REQUESTS)
    with pytest.raises(ValueError, match="this edit belongs to the model with fingerprint"):
        editor.edit(REQUESTS, after=other)
    assert editor.log == []


def test_a_saved_edit_is_loaded_for_the_editors_model(editor, tiny, tmp_path):
    edit = editor.edit(REQUESTS)
    edit.save(tmp_path / "edit", base="tiny")
    loaded = editor.load(tmp_path / "edit")
    assert loaded.editor == "remembering" and len(loaded) == 1
    with pytest.raises(ValueError, match="fingerprint"):
        Remembering(tiny("gpt2", seed=1)).load(tmp_path / "edit")


# identity


@dataclass(frozen=True)
class Search:
    steps: int = 20


class Corpus:
    fingerprint = "c0ffee"


class Solving(Remembering):
    def __init__(self, language_model, *, layers, search, corpus=None):
        super().__init__(language_model)
        self.layers, self.search, self.corpus = layers, search, corpus


def test_identity_is_the_class_and_what_it_was_constructed_with(language_model):
    editor = Solving(language_model, layers=("a", "b"), search=Search(), corpus=Corpus())
    assert editor.identity() == {
        "class": "Solving",
        "layers": ["a", "b"],
        "search": {"steps": 20},
        "corpus": "c0ffee",
    }


def test_identity_stays_when_an_editor_has_been_prepared_and_used(language_model):
    editor = Solving(language_model, layers=["a"], search=Search())
    before = editor.identity()
    editor.prepare()
    assert editor.identity() == before
    editor.edit(REQUESTS)
    assert editor.identity() == before


def test_identity_tells_settings_apart(language_model):
    settings = [
        {"layers": ["a"], "search": Search()},
        {"layers": ["b"], "search": Search()},
        {"layers": ["a"], "search": Search(steps=21)},
        {"layers": ["a"], "search": Search(), "corpus": Corpus()},
    ]
    identities = [Solving(language_model, **each).identity() for each in settings]
    assert all(identities.count(identity) == 1 for identity in identities)
    same = Solving(language_model, **settings[0]).identity()
    assert same == identities[0]


def test_identity_of_fine_tuning_holds_every_argument(language_model):
    identity = FineTune(language_model, lr=1e-3).identity()
    assert identity["class"] == "FineTune" and identity["lr"] == 1e-3
    assert identity["layers"] == [language_model.layer("mlp_out", 2)]
    assert FineTune(language_model).identity() != identity


def test_what_cannot_be_told_apart_has_no_identity(language_model):
    editor = Solving(language_model, layers=["a"], search=Search(), corpus=object())
    with pytest.raises(TypeError, match="no setting of an editor: <object"):
        editor.identity()


def test_nothing_is_added_to_by_whoever_goes_on(language_model):
    edit = FineTune(language_model, steps=1).edit(REQUESTS[:1])
    assert NOTHING.plus(edit) is edit
