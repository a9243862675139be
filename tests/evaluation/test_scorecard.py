"""The scorecard: properties, ranks, what the intervals support, and weights that cannot be."""

import pytest
from scripts import ROOT
from yaml import safe_load

from evaluation.report.scorecard import Value, card, checked, measured, spread

SURE, UNSURE = Value(0.9, 0.88, 0.92), Value(0.5, 0.1, 0.9)


def exact(mean):
    return Value(mean, mean, mean)


def test_points_are_the_share_of_the_others_that_are_behind():
    values = {"a": {"reliability": exact(0.9)}, "b": {"reliability": exact(0.5)}}
    values["c"] = {"reliability": exact(0.1)}
    points = card("p", {"reliability": 1.0}, values).points
    assert [points[e]["reliability"] for e in "abc"] == [1.0, 0.5, 0.0]


def test_of_costs_the_lowest_is_first():
    values = {"slow": {"speed": exact(10.0)}, "fast": {"speed": exact(0.1)}}
    result = card("p", {"speed": 1.0}, values)
    assert list(result.scores) == ["fast", "slow"]
    assert result.behind == ()


def test_a_lead_that_intervals_do_not_support_counts_half():
    values = {"a": {"reliability": UNSURE}, "b": {"reliability": UNSURE}}
    result = card("p", {"reliability": 1.0}, values)
    assert result.points["a"]["reliability"] == pytest.approx(0.5, abs=0.05)
    assert len(result.behind) == 1
    sure = card(
        "p", {"reliability": 1.0}, {"a": {"reliability": SURE}, "b": {"reliability": UNSURE}}
    )
    assert sure.first["a"] > 0.9


def test_the_choice_changes_with_the_weights():
    values = {
        "careful": {"reliability": exact(0.6), "unrelated": exact(1.0)},
        "bold": {"reliability": exact(1.0), "unrelated": exact(0.3)},
    }
    chosen = [
        next(iter(card("p", {"reliability": r, "unrelated": 1 - r}, values).scores))
        for r in (0.9, 0.1)
    ]
    assert chosen == ["bold", "careful"]


def test_what_was_not_measured_gives_its_weight_to_the_rest():
    values = {"a": {"reliability": exact(1.0)}, "b": {"reliability": exact(0.0)}}
    result = card("p", {"reliability": 0.25, "sequence": 0.75}, values)
    assert (result.weights, result.missing) == ({"reliability": 1.0}, {"sequence": 0.75})
    with pytest.raises(ValueError, match="profile p: none of its properties was measured"):
        card("p", {"sequence": 1.0}, values)


def test_who_lacks_a_property_is_last_in_it():
    values = {"a": {"batch": exact(0.0), "speed": exact(1.0)}, "b": {"speed": exact(1.0)}}
    assert card("p", {"batch": 1.0}, values).points == {"a": {"batch": 1.0}, "b": {"batch": 0.0}}


def test_locality_is_shared_out_among_its_kinds_that_are_there():
    values = {"a": {"unrelated": SURE, "neighborhood": SURE}}
    weights = spread({"reliability": 0.4, "locality": 0.4, "unrelated": 0.2}, values)
    assert weights == pytest.approx({"reliability": 0.4, "neighborhood": 0.2, "unrelated": 0.4})


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"charm": 1.0}, "profile p: charm is none of the properties reliability, "),
        ({"reliability": 0.9}, "the weights sum to 0.9; expected 1"),
        ({"reliability": 1.5, "speed": -0.5}, "the weight of reliability is 1.5; expected 0 to 1"),
        ({"reliability": "much"}, "the weight of reliability is much"),
        ({"reliability": float("nan")}, "the weight of reliability is nan"),
        ({}, "the weights sum to 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, error):
    with pytest.raises(ValueError, match=error):
        checked("p", weights)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/profile").glob("*.yaml")), ids=str)
def test_shipped_profiles_can_be(path):
    assert checked(path.stem, safe_load(path.read_text()))


def row(editor, probe, mean, protocol="single", n=1, phase="immediate", scorer="exact_match"):
    about = {"editor": editor, "protocol": protocol, "n": n, "phase": phase, "scorer": scorer}
    return about | {"probe": probe, "mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def test_properties_are_read_from_the_rows_of_all_runs():
    rows = [row("rome", "reliability", 0.9), row("rome", "one_hop", 0.2)]
    rows += [row("rome", "subject_alias", 0.6), row("rome", "reliability", 0.1, scorer="other")]
    rows += [row("rome", "reliability", 0.9 - n / 1000, "batch", n) for n in (10, 100)]
    rows += [row("kn", "reliability", 0.4, "batch", 10)]
    rows += [
        row("rome", "reliability", mean, "sequential", 50, phase)
        for mean, phase in ((0.8, "immediate"), (0.3, "retention"))
    ]
    cost = {"editor": "rome", "seconds_per_edit": 2.0, "peak_gib": 3.0, "preparation_seconds": 4.0}
    costs = [{**cost, "protocol": "batch", "seconds_per_edit": 0.1}]
    costs += [{**cost, "protocol": "single", "training_seconds": 5.0}]
    values = measured(rows, costs, "exact_match")
    means = {name: value.mean for name, value in values["rome"].items()}
    assert means == pytest.approx(
        {
            **{"reliability": 0.9, "portability": 0.4, "batch": 0.8, "sequence": 0.3},
            **{"speed": 2.0, "memory": 3.0, "preparation": 9.0},
        }
    )
    assert values["kn"] == {}  # it was not asked at the largest n
    port = values["rome"]["portability"]
    assert (port.high - port.low) / 2 == pytest.approx(0.1 / 2**0.5)
