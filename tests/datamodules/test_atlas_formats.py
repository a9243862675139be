"""The text that teaches Atlas's model what facts in front of a question are for."""

import random
import re

import pytest

from datamodules.atlas.formats import AtlasFormats
from editors.memory.in_context import CONTEXT, IKE, MEMPROMPT, SCR
from edits.layout import Fact
from edits.steps import FINAL, RETRIEVED, SUBQUESTION, Steps


@pytest.fixture(scope="module")
def text():
    return AtlasFormats(
        statements=0.05, facts=300, demonstrations=10, votes=300, clarifications=300, steps=300
    )


@pytest.fixture(scope="module")
def documents(text):
    """Of each format, by its name."""
    rng = random.Random(1)
    return {
        write.__name__.strip("_"): [write(rng) for _ in range(count)]
        for write, count in text.counts.items()
    }


def pattern(template):
    """A regular expression of a text in which P, T, and Q stand for anything."""
    escaped = re.escape(template).replace("<P>", ".+?").replace("<T>", ".+?")
    return escaped.replace("<Q>", "(.+)")


FACT = Fact("<P>", "<T>")


def test_a_pass_is_the_same_each_time_and_another_one_is_not(text):
    assert text.documents(3) == text.documents(3)
    assert set(text.documents(3)) != set(text.documents(4))
    assert len(text.documents(0)) > sum(text.counts.values())


def test_no_person_of_val_or_test_is_in_a_fact_that_stands_in_front(text, documents):
    world = text.world
    others = [n for n, kind in world.kind.items() if kind == "person" and world.split[n] != "train"]
    others += [world.alias[name] for name in others if name in world.alias]
    for texts in documents.values():
        assert not any(name in doc for doc in texts for name in others)


def test_formats_are_those_of_the_editors(documents):
    facts = f"(?:{pattern(CONTEXT.put(FACT))}){{1,6}}"
    front = facts + pattern(CONTEXT.frame.format(facts="", question="<Q>"))
    ike = f"(?:{pattern(IKE.framed([FACT], '<P> <T>'))}\n\n)+"
    ballot = pattern(SCR.asked([], "<Q>"))
    vote = f"(?:[A-F]\\. .+\\.\n){{1,6}}{ballot} [A-FZ]"
    behind = f"{pattern(MEMPROMPT.framed([FACT], '<Q>'))} .+ END"
    steps = f"{pattern(Steps().start('<Q>'))}(?:\n{SUBQUESTION}.+\n.+\n{RETRIEVED}.+\n.+)+"
    wanted = {
        "facts": front,
        "demonstrations": ike,
        "vote": vote,
        "clarification": behind,
        "steps": f"{steps}\n{FINAL}.+",
    }
    assert set(wanted) == set(documents)
    for name, regex in wanted.items():
        for doc in documents[name]:
            assert re.fullmatch(regex, doc), (name, doc)


def test_a_vote_is_for_the_fact_that_says_what_is_asked(text, documents):
    world = text.world
    for doc in documents["vote"]:
        (
            *options,
            question,
            _,
        ) = doc.split("\n")
        letter, lines = doc[-1], {line[0]: line for line in options if line[1] == "."}
        asked = question.removeprefix("Question: ")
        assert letter in lines
        about = next(
            (
                fact.subject
                for fact in world.facts
                if asked in [p.format(fact.subject) for p in world.relations[fact.relation].prompts]
            ),
            None,
        )
        if letter != "Z" and about is not None and about not in world.alias:
            assert about in lines[letter]


def test_steps_lead_from_the_question_to_the_answer(text, documents):
    world = text.world
    two = [doc for doc in documents["steps"] if doc.count(SUBQUESTION) == 2]
    assert 0.2 < len(two) / len(documents["steps"]) < 0.6
    for doc in documents["steps"]:
        *_, verdict, final = doc.split("\n")
        assert verdict.endswith(f": {final.removeprefix(FINAL)}")
        for said, told, verdict in re.findall(
            rf"Generated answer: (.+)\.\n{RETRIEVED}(.+)\.\nRetrieved fact (.+)", doc
        ):
            answer = verdict.partition("answer is: ")[2]
            assert told.endswith(answer) if verdict.startswith("contradicts") else answer == said
    assert world.facts
