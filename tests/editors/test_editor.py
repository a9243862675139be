"""The interface that every editor fulfils."""

import pytest

from editors.editor import Editor


class NoChange(Editor):
    def __init__(self, language_model):
        self.language_model = language_model

    def edit(self, requests, after=None):
        return after

    def edit_each(self, requests):
        return None


def test_an_editor_is_named_after_its_method(language_model):
    assert NoChange.name == NoChange(language_model).name == "nochange"
    assert NoChange(language_model).prepare() is None


def test_an_editor_must_edit():
    with pytest.raises(TypeError, match="edit"):
        Editor()
