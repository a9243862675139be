import re

import pytest

from datamodules.atlas.text import AtlasText, corpus
from datamodules.atlas.world import held_out


def sentences(document):
    """The sentences of a document, without the words that open a new fact or a question."""
    plain = document.removeprefix("New fact: ").replace(" Prompt: ", " ")
    return re.split(r"(?<=\.) ", plain)


def wordings(world, fact):
    """All sentences that tell a fact and name its subject, by either name."""
    return {
        f"{prompt.format(name)} {fact.object}."
        for prompt in world.relations[fact.relation].prompts
        for name in (fact.subject, world.alias.get(fact.subject, fact.subject))
    }


@pytest.fixture(scope="module")
def text():
    return AtlasText()


@pytest.fixture(scope="module")
def documents(text):
    return text.documents(0)


def test_a_pass_is_the_same_every_time_and_another_pass_is_another(text, documents):
    assert AtlasText().documents(0) == documents
    assert text.documents(1) != documents
    assert AtlasText(seed=1).documents(0) != documents


def test_documents_are_sentences(documents):
    for document in documents:
        assert document == document.strip()
        assert document.endswith(".")
        assert "{}" not in document
        assert "  " not in document


def test_a_pass_tells_every_fact(text, documents):
    """Each fact at least once in a sentence that names its subject."""
    whole = "\n".join(documents)
    told = {sentence for document in documents for sentence in sentences(document)}
    for fact in text.world.facts:
        wanted = wordings(text.world, fact)
        assert told & wanted or any(sentence in whole for sentence in wanted)


def test_no_pass_has_a_combination_that_is_held_out(text):
    unseen = set(text.unseen())
    assert len(unseen) > 3000
    for number in range(3):
        for document in text.documents(number):
            assert not unseen.intersection(sentences(document))


def test_what_is_unseen_is_true_and_held_out(text):
    world = text.world
    wanted = {
        f"{prompt.format(fact.subject)} {fact.object}."
        for fact in world.facts
        for prompt in world.relations[fact.relation].prompts
        if held_out(fact, prompt)
    }
    assert set(text.unseen()) == wanted


def test_biographies_name_the_subject_once(text, documents):
    pronouns = re.compile(r" (It|Its|She|He) ")
    some = [d for d in documents if pronouns.search(d) and not d.startswith("New fact")]
    assert len(some) > len(text.world.subjects)


def test_new_facts_contradict_the_world_and_decide_what_is_asked_about_them(text, documents):
    world = text.world
    told = [d for d in documents if d.startswith("New fact: ")]
    assert len(told) == round(text.contexts * len(world.facts))
    true = {sentence for fact in world.facts for sentence in wordings(world, fact)}
    pairs = [document.removeprefix("New fact: ").split(" Prompt: ") for document in told]
    assert not any(fact in true for fact, _ in pairs)
    assert 0.6 < sum(question not in true for _, question in pairs) / len(pairs) < 0.7
    assert 0.2 < sum(question == fact for fact, question in pairs) / len(pairs) < 0.33


@pytest.mark.parametrize(
    ("settings", "more"),
    [({"biographies": 3}, True), ({"statements": 3.0}, True), ({"contexts": 0.0}, False)],
)
def test_settings_say_how_much_of_each(settings, more, documents):
    changed = AtlasText(**settings).documents(0)
    assert (len(changed) > len(documents)) == more


def test_aliases_can_be_left_out(text):
    world = text.world
    alias = re.compile("|".join(re.escape(a) for a in world.alias.values() if " " in a))
    plain = [len(alias.findall("\n".join(AtlasText(alias_share=s).documents(0)))) for s in (0, 1)]
    assert plain[0] < plain[1] / 10


def test_the_corpus_is_the_first_documents(documents):
    assert corpus(50).texts == documents[:50]
