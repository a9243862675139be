import csv
import string
from collections import Counter

import pytest

from datamodules.atlas.world import HELD_OUT, HERE, Fact, World, held_out


@pytest.fixture(scope="module")
def world():
    return World()


def by_kind(world, kind):
    return [subject for subject in world.subjects if world.kind[subject] == kind]


def test_it_is_large_enough(world):
    assert len(by_kind(world, "city")) >= 800
    assert len(by_kind(world, "country")) >= 150
    people = by_kind(world, "person")
    assert len(people) >= 600
    assert min(len(world.about(person)) for person in people) >= 5
    assert len(world.facts) >= 6000
    assert len(world.relations) >= 12
    assert len(world.alias) >= 300


def test_each_relation_has_wordings_enough(world):
    for relation in world.relations.values():
        assert len(relation.statements) >= 6, relation.name
        assert len(relation.questions) >= 2, relation.name
        assert len(relation.pronoun) >= 2, relation.name
        assert len(set(relation.prompts)) == len(relation.prompts)


def test_each_prompt_names_the_subject_once_and_no_prompt_has_two_relations(world):
    for relation in world.relations.values():
        for prompt in relation.prompts:
            fields = [name for _, name, _, _ in string.Formatter().parse(prompt) if name == ""]
            assert len(fields) == 1, prompt
            assert prompt == prompt.strip()
        assert all("Question:" in q and "Answer:" in q for q in relation.questions)
        assert not any("Question:" in s for s in relation.statements)
    count = Counter(
        (relation.kind, prompt)
        for relation in world.relations.values()
        for prompt in relation.prompts
    )
    assert count.most_common(1)[0][1] == 1


def test_facts_are_functions_of_subject_and_relation(world):
    pairs = Counter((fact.subject, fact.relation) for fact in world.facts)
    assert pairs.most_common(1)[0][1] == 1
    for fact in world.facts:
        assert world.relations[fact.relation].kind == world.kind[fact.subject]
        assert world.about(fact.subject)[fact.relation] == fact.object
        assert fact.object == fact.object.strip() != ""


def test_every_subject_has_every_relation_of_its_kind(world):
    for subject in world.subjects:
        wanted = {r.name for r in world.relations.values() if r.kind == world.kind[subject]}
        assert wanted - set(world.about(subject)) <= {"capital_of"}


def test_the_facts_agree_with_each_other(world):
    for city in by_kind(world, "city"):
        about = world.about(city)
        country = about["country"]
        assert world.about(country).get("continent") == about["city_continent"]
        assert (world.about(country)["capital"] == city) == ("capital_of" in about)
        assert about.get("capital_of", country) == country
    for person in by_kind(world, "person"):
        about = world.about(person)
        assert world.about(about["birthplace"])["country"] == about["birth_country"]


def test_aliases_name_one_thing_only(world):
    assert len(set(world.alias.values())) == len(world.alias)
    assert not set(world.alias.values()) & set(world.subjects)
    assert set(world.alias) <= set(world.subjects)


def test_each_subject_has_one_split_and_each_split_its_share(world):
    with (HERE / "world.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["subject"], row["kind"], row["split"]) for row in csv.DictReader(file)}
    assert len(rows) == len(world.subjects)
    for kind in ("city", "country", "person"):
        shares = Counter(world.split[subject] for subject in by_kind(world, kind))
        total = shares.total()
        assert 0.6 < shares["train"] / total < 0.7
        assert 0.08 < shares["val"] / total < 0.12
        assert 0.22 < shares["test"] / total < 0.28


def test_objects_are_those_of_the_relation(world):
    for name, objects in world.objects.items():
        assert objects == sorted({f.object for f in world.facts if f.relation == name})
        assert len(objects) >= 2


def test_what_is_no_subject_has_no_facts(world):
    assert world.about("Atlantis") == {}
    assert "Atlantis" not in world.kind


def test_what_follows_is_derived_and_what_leads_to_it_is_not(world):
    assert world.derived("city") == {"city_continent"}
    assert world.derived("person") == {"birth_country"}
    assert world.derived("country") == set()


def test_a_wording_is_held_out_for_some_facts_and_always_the_same(world):
    combinations = [(f, p) for f in world.facts for p in world.relations[f.relation].prompts]
    out = [held_out(fact, prompt) for fact, prompt in combinations]
    assert abs(100 * sum(out) / len(out) - HELD_OUT) < 1
    assert held_out(Fact("Quito", "country", "Ecuador"), "{} is a city in") is held_out(
        Fact("Quito", "country", "anything"), "{} is a city in"
    )


def test_two_worlds_are_equal(world):
    other = World()
    assert other.facts == world.facts
    assert other.alias == world.alias
    assert other.split == world.split
