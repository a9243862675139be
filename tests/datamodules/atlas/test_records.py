"""The records of Atlas, judged by an oracle that reads the sentences and knows the world."""

from collections import Counter, defaultdict

import pytest

from datamodules.atlas.data import AtlasData
from datamodules.atlas.records import RecordWriter
from datamodules.atlas.world import World

NEIGHBOURS = ("neighborhood", "distracting_neighbor")


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def data():
    return AtlasData(variants=1)


@pytest.fixture(scope="module")
def splits(data):
    return data.splits()


@pytest.fixture(scope="module")
def everything(splits):
    return [record for records in splits.values() for record in records]


@pytest.fixture(scope="module")
def read(world):
    """``read(prompt)``: subject and relation that a prompt asks for, by its wording and names."""
    names = {subject: subject for subject in world.subjects}
    names |= {alias: subject for subject, alias in world.alias.items()}
    known = {
        wording.format(name): (subject, relation.name)
        for name, subject in names.items()
        for relation in world.relations.values()
        if relation.kind == world.kind[subject]
        for wording in relation.prompts
    }
    return known.__getitem__


def changed(world, subject, relation, new):
    """Every (subject, relation) whose answer an edit changes, in one step or in several."""
    old = world.about(subject)[relation]
    found = {(subject, relation)}
    if relation in ("country", "capital_of"):
        found |= {(subject, r) for r in ("country", "city_continent", "capital_of")}
        found |= {(p, "birth_country") for p in people_from(world, subject)}
    if relation == "capital_of":
        found |= {(old, "capital"), (new, "capital"), (world.about(new)["capital"], "capital_of")}
    if relation == "capital":
        found |= {(city, "capital_of") for city in (old, new)}
        found |= {(new, "country"), (new, "city_continent")}
        found |= {(p, "birth_country") for p in people_from(world, new)}
    if relation == "continent":
        cities = [s for s in world.subjects if world.about(s).get("country") == subject]
        found |= {(city, "city_continent") for city in cities}
    if relation == "birthplace":
        found.add((subject, "birth_country"))
    return found


def people_from(world, city):
    return [s for s in world.subjects if world.about(s).get("birthplace") == city]


def asked(read, record, probe):
    """Subject and relation of a probe; of what is asked last if something stands in front."""
    told = f"{record.requests[0].prompt} {record.requests[0].target}. "
    return read(probe.prompt.removeprefix(told))


def test_there_are_enough_records_and_no_id_twice(splits, everything):
    assert len(splits["test"]) >= 500
    assert len(splits["val"]) >= 500
    assert len(splits["train"]) >= 3000
    assert len({record.id for record in everything}) == len(everything)


def test_every_kind_that_a_world_of_facts_can_have_occurs_in_the_test_split(splits):
    kinds = Counter(probe.kind for record in splits["test"] for probe in record.questions)
    assert set(kinds) == {
        *("reliability", "generalization", "subject_alias", "reversed_relation", "one_hop"),
        *("neighborhood", "unrelated", "other_relation", "distracting_neighbor"),
    }
    assert min(kinds.values()) >= 50
    assert kinds["reliability"] == len(splits["test"])


def test_no_subject_of_a_split_is_met_in_another(world, splits, read):
    """Neither as the subject of a request nor of any probe."""
    met = defaultdict(set)
    for split, records in splits.items():
        for record in records:
            met[split].add(record.requests[0].subject)
            met[split] |= {asked(read, record, probe)[0] for probe in record.questions}
    for one, other in [("test", "train"), ("test", "val"), ("val", "train")]:
        assert not met[one] & met[other]
    for split, subjects in met.items():
        assert {world.split[subject] for subject in subjects} == {split}


def test_requests_change_a_fact_of_the_world(world, everything, read):
    for record in everything:
        request = record.requests[0]
        subject, relation = read(request.prompt)
        assert subject == request.subject
        assert world.about(subject)[relation] == request.target_true
        assert request.target != request.target_true
        assert request.target in world.objects[relation]
        assert request.prompt[slice(*request.span)] == subject


def test_paraphrases_and_aliases_ask_for_the_same_in_other_words(world, everything, read):
    for record in everything:
        request = record.requests[0]
        wanted = read(request.prompt)
        prompts = [request.prompt]
        for probe in record.of_kind("generalization", "subject_alias"):
            assert read(probe.prompt) == wanted
            assert (probe.target, probe.contrast) == (request.target, request.target_true)
            alias = world.alias.get(request.subject)
            named = alias if probe.kind == "subject_alias" else request.subject
            assert named in probe.prompt
            prompts.append(probe.prompt)
        assert len(prompts) == len(set(prompts))


def test_one_hop_answers_are_what_follows_from_the_new_object(world, everything, read):
    for record in everything:
        request = record.requests[0]
        subject, relation = read(request.prompt)
        for probe in record.of_kind("one_hop"):
            about, hop = read(probe.prompt)
            assert about == subject
            wanted = {
                ("country", "city_continent"): lambda new: world.about(new)["continent"],
                ("capital_of", "city_continent"): lambda new: world.about(new)["continent"],
                ("capital_of", "country"): lambda new: new,
                ("birthplace", "birth_country"): lambda new: world.about(new)["country"],
            }[relation, hop]
            assert probe.target == wanted(request.target)
            assert probe.contrast == world.about(subject)[hop] != probe.target


def test_reversed_relations_ask_the_new_object_for_the_subject(world, everything, read):
    for record in everything:
        subject, relation = read(record.requests[0].prompt)
        for probe in record.of_kind("reversed_relation"):
            opposite = {"capital": "capital_of", "capital_of": "capital"}[relation]
            assert read(probe.prompt) == (record.requests[0].target, opposite)
            assert probe.target == subject


def test_neighbours_share_the_old_object_and_keep_it(world, everything, read):
    for record in everything:
        request = record.requests[0]
        subject, relation = read(request.prompt)
        for probe in record.of_kind(*NEIGHBOURS):
            neighbour, same = asked(read, record, probe)
            assert neighbour != subject
            assert same == relation
            assert world.about(neighbour)[relation] == probe.target == request.target_true
            assert probe.contrast == request.target


def test_a_distracting_neighbour_stands_behind_the_edit(everything):
    for record in everything:
        told = f"{record.requests[0].prompt} {record.requests[0].target}. "
        for probe in record.of_kind("distracting_neighbor"):
            assert probe.prompt.startswith(told)
        for probe in record.probes:
            assert (probe.kind == "distracting_neighbor") == probe.prompt.startswith(told)


def test_other_relations_and_unrelated_facts_are_true(world, everything, read):
    for record in everything:
        subject, relation = read(record.requests[0].prompt)
        for probe in record.of_kind("other_relation", "unrelated"):
            about, other = read(probe.prompt)
            assert world.about(about)[other] == probe.target
            assert other != relation
            assert (about == subject) == (probe.kind == "other_relation")


def test_no_edit_changes_the_answer_to_a_locality_probe(world, everything, read):
    """Not even by way of something that follows from it."""
    for record in everything:
        subject, relation = read(record.requests[0].prompt)
        affected = changed(world, subject, relation, record.requests[0].target)
        for probe in record.of_kind(*NEIGHBOURS, "unrelated", "other_relation"):
            assert asked(read, record, probe) not in affected, (record.id, probe)


def test_what_follows_from_other_facts_is_never_edited(everything, read):
    edited = {read(record.requests[0].prompt)[1] for record in everything}
    assert not edited & {"birth_country", "city_continent"}
    assert len(edited) >= 10


def test_variants_have_new_objects_of_their_own_and_only_train_has_them(world):
    records = AtlasData(variants=3).splits()
    objects = defaultdict(list)
    for record in records["train"]:
        fact, variant = record.id.rsplit("/", 1)
        objects[fact].append((int(variant), record.requests[0].target))
    assert {tuple(sorted(v for v, _ in found)) for found in objects.values()} == {(0, 1, 2)}
    assert sum(len({o for _, o in found}) > 1 for found in objects.values()) > 0.9 * len(objects)
    assert {record.id.rsplit("/", 1)[1] for record in records["test"]} == {"0"}


def test_records_are_the_same_every_time(world, splits):
    again = RecordWriter(World(), "val", 2110).records()
    assert again == RecordWriter(world, "val", 2110).records() == splits["val"]
    assert again != RecordWriter(world, "val", 2111).records()


def test_other_seeds_change_the_order_only(data):
    one, other = data, AtlasData(variants=1, seed=1)
    assert one.records("test") != other.records("test")
    assert set(one.records("test")) == set(other.records("test"))


def test_a_limit_takes_the_first(data):
    assert data.records("test", 5) == data.records("test")[:5]


def test_relations_can_be_left_out_of_train(splits):
    unseen = ("birthplace", "capital")
    fewer = AtlasData(variants=1, unseen=unseen).splits()

    def relation(record):
        return record.id.split("/")[1]

    assert {relation(record) for record in fewer["train"]}.isdisjoint(unseen)
    assert len(fewer["train"]) == sum(relation(r) not in unseen for r in splits["train"])
    assert fewer["val"] == splits["val"] and fewer["test"] == splits["test"]
    with pytest.raises(ValueError, match="unseen: no relation 'mayor'; country, "):
        AtlasData(unseen=["mayor"]).splits()
