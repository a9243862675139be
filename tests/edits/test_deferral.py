"""Tables of keys: what a step makes of them, by an oracle in plain Python; taking steps out."""

import math

import pytest
import torch

from edits.deferral import CANDIDATES, GAP, Rule, Table, nearest


def oracle(queries, labels, radius):
    """GRACE's stream as lists: entries of key, radius, label, step."""
    entries = []
    for step, (query, label) in enumerate(zip(queries, labels, strict=True)):
        apart = [math.dist(query, entry["key"]) for entry in entries]
        least = min(apart, default=math.inf)
        near = entries[apart.index(least)] if entries else None
        if near is None or least > radius + near["radius"]:
            entries.append({"key": query, "radius": radius, "label": label, "last": step})
        elif near["label"] == label:
            near.update(radius=max(near["radius"], least), last=step)
        elif least == 0:
            near.update(label=label, last=step, radius=min(near["radius"], radius))
        else:
            near["radius"] = least / 2 - GAP
            entries.append({"key": query, "radius": least / 2, "label": label, "last": step})
    return entries


def stream(steps, seed, width=3, kinds=3):
    """Queries and labels; some queries come twice."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(steps, width, generator=generator, dtype=torch.float64) * 2
    queries[steps // 2 :: 3] = queries[: len(queries[steps // 2 :: 3])]
    labels = torch.randint(kinds, (steps, 1), generator=generator)
    return queries, [tuple(own) for own in labels.tolist()]


def table(queries, labels, radius=1.0):
    """Its values are the numbers of the steps."""
    values = torch.arange(len(queries), dtype=queries.dtype)[:, None]
    empty = Table.empty(Rule(radius), queries, values)
    return empty.grown([str(n) for n in range(len(queries))], labels, queries).table(values)


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_is_that_of_the_oracle(seed):
    queries, labels = stream(40, seed)
    made = table(queries, labels)
    wanted = oracle(queries.tolist(), labels, 1.0)
    assert [made.labels[born] for born in made.born] == [entry["label"] for entry in wanted]
    assert list(made.last) == [entry["last"] for entry in wanted]
    assert made.radii.tolist() == pytest.approx([entry["radius"] for entry in wanted])
    assert made.keys.tolist() == [entry["key"] for entry in wanted]


@pytest.mark.parametrize("seed", range(5))
def test_steps_one_after_another_are_those_at_once(seed):
    queries, labels = stream(30, seed)
    one = table(queries[:1], labels[:1])
    for step in range(1, 30):
        growth = one.grown([str(step)], labels[step : step + 1], queries[step : step + 1])
        one = growth.table(torch.cat([one.values, one.values.new_tensor([[step]])]))
    assert_same(one, table(queries, labels))


def assert_same(one, other):
    for name in ("prompts", "labels", "starts", "born", "last"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("queries", "values", "radii"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("seed", range(10))
def test_a_step_is_taken_out_exactly_or_not_at_all(seed):
    """It goes where no other value was trained from its own, nor would be without it."""
    queries, labels = stream(25, seed)
    whole, outcomes = table(queries, labels), set()
    for gone in range(25):
        keep = [n for n in range(25) if n != gone]
        shorter = table(queries[keep], [labels[n] for n in keep])
        place = {-1: -1} | {step: at for at, step in enumerate(keep)}
        same = [place.get(whole.starts[n]) for n in keep] == list(shorter.starts)
        outcomes.add(same)
        if not same:
            with pytest.raises(ValueError, match="would have to be edited anew"):
                whole.without([str(gone)])
            continue
        left = whole.without([str(gone)])
        assert torch.equal(left.radii, shorter.radii)
        assert torch.equal(left.keys, shorter.keys)
        assert left.answers[:, 0].tolist() == [keep[step] for step in shorter.last]
    assert outcomes == {True, False}


def test_what_shrank_a_ball_gives_it_back():
    queries = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
    made = table(queries, [(1,), (2,), (1,)])
    assert made.radii.tolist() == pytest.approx([0.5 - GAP, 0.5, 1.0])
    assert made.without(["1"]).radii.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="no request of the edit has the prompt 'x'"):
        made.without(["x"])
    assert len(made.without(["0", "1", "2"])) == 0


def test_what_displaced_an_entry_gives_it_back():
    queries = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    made = table(queries, [(1,), (2,)])
    assert (made.born, made.last, made.radii.tolist()) == ((1,), (1,), [1.0])
    left = made.without(["1"])
    assert (left.labels[left.born[0]], left.answers.tolist()) == ((1,), [[0.0]])


def test_a_displaced_ball_is_not_larger_than_a_new_one():
    queries = torch.tensor([[0.0, 1.0], [0.0, 2.9], [0.0, 1.0]])
    assert table(queries, [(1,), (1,), (2,)]).radii.tolist() == [1.0]


def test_tables_are_added_where_their_entries_do_not_meet():
    queries = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.5, 0.0]])
    labels = [(1,), (2,), (1,)]
    one, far, near = (table(queries[n : n + 1], labels[n : n + 1]) for n in range(3))
    both = one.plus(far)
    assert (both.born, both.values.tolist()) == ((0, 1), [[0.0], [0.0]])
    with pytest.raises(ValueError, match="would have to be edited anew"):
        one.plus(near)


@pytest.mark.parametrize("count", [1, CANDIDATES, 500])
def test_the_nearest_key_is_found_where_a_product_of_matrices_rounds_it_away(count):
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(count, 64, generator=generator) + 100
    keys[-1] = keys[0]
    queries = keys[: min(count, 5)] + 1e-3
    distances, found = nearest(queries, keys, keys.square().sum(1))
    exact = (queries[:, None].double() - keys.double()).norm(dim=2)
    assert found.tolist() == exact.argmin(1).tolist()
    torch.testing.assert_close(distances, exact.min(1).values.float())
    distances, found = nearest(keys[:1], keys, keys.square().sum(1))
    assert (distances.tolist(), found.tolist()) == ([0.0], [0])  # of equal ones the first


def test_keys_that_are_barred_are_none():
    keys = torch.eye(3)
    barred = torch.tensor([[True, False, True], [True, True, True]])
    distances, found = nearest(keys[:2], keys, torch.ones(3), barred)
    assert int(found[0]) == 1
    assert distances.tolist() == pytest.approx([2**0.5, math.inf])
