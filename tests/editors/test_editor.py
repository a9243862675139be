"""The interface that every editor fulfils."""

from dataclasses import dataclass

import pytest

from datamodules.records import Request
from datamodules.text import TextCorpus
from editors.editor import Editor
from edits import NOTHING

LAGOS = Request("Lagos is in", "Lagos", "Sweden")
PARIS = Request("Paris is in", "Paris", "Japan")


@dataclass(frozen=True)
class Search:
    steps: int = 3


class NoChange(Editor):
    """Makes no change; notes the order in which it is called."""

    def __init__(self, language_model, *, search=Search(), layers=(1, 2), corpus=None):
        self.language_model = language_model
        self.search, self.layers, self.corpus = search, layers, corpus
        self.calls = []

    def prepare(self):
        self.calls.append("prepare")

    def compute(self, groups, after):
        self.calls.append([len(group) for group in groups])
        return NOTHING


@pytest.fixture
def editor(language_model):
    return NoChange(language_model)


def test_an_editor_is_named_after_its_method(editor):
    assert NoChange.name == editor.name == "nochange"


def test_an_editor_must_edit():
    with pytest.raises(TypeError, match="compute"):
        Editor()


def test_one_edit_is_a_group_and_independent_ones_are_groups_of_one(editor):
    editor.edit([LAGOS, PARIS])
    editor.edit_each([LAGOS, PARIS])
    editor.make([[LAGOS], [LAGOS, PARIS]])
    assert editor.calls == ["prepare", [2], "prepare", [1, 1], "prepare", [1, 2]]


@pytest.mark.parametrize("groups", [[], [[]], [[LAGOS], []]])
def test_no_requests_are_refused_before_anything_is_prepared(groups, editor):
    with pytest.raises(ValueError, match="there are no requests to edit for"):
        editor.make(groups)
    assert editor.calls == []


def test_only_one_edit_goes_on(editor):
    with pytest.raises(ValueError, match="after: one edit goes on, got 0 for 1"):
        editor.edit([LAGOS], after=NOTHING)


def test_an_identity_is_the_class_and_the_constructor_s_arguments(language_model, editor):
    assert editor.identity() == {
        "class": "NoChange",
        "search": {"steps": 3},
        "layers": [1, 2],
        "corpus": None,
    }
    before = editor.identity()
    editor.edit([LAGOS])
    assert editor.identity() == before
    one, other = (TextCorpus([text]) for text in ("Paris is in France.", "Tokyo."))
    corpora = [
        NoChange(language_model, corpus=corpus).identity()["corpus"] for corpus in (one, other)
    ]
    assert corpora[0] == one.fingerprint != corpora[1]
