"""Settings that cannot be are refused by a line that names them; the others have a plain form."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from editors.memory.training import SeracTraining
from editors.meta_learning.training import HypernetworkTraining
from editors.settings import at_least, named, one_of, plain, positive, shares


@pytest.mark.parametrize("layers", [[], (), "transformer.h.0", None])
def test_layers_are_a_list_of_names(layers):
    with pytest.raises(ValueError, match="layers: expected a list of names"):
        named(layers)


def test_layers_named():
    assert named(("a", "b")) == ["a", "b"]


REFUSED = [
    (lambda: one_of("loss", "kl", ("nll", "margin")), "loss is 'kl', expected one of nll, margin"),
    (lambda: at_least(1, steps=0), "steps must be at least 1, got 0"),
    (lambda: at_least(0.5, steps=1, rank=0.25), "rank must be at least 0.5, got 0.25"),
    (lambda: at_least(0, lr=float("nan")), "lr must be at least 0, got nan"),
    (lambda: positive(lr=0.0), "lr must be more than 0, got 0.0"),
    (lambda: positive(lr=float("nan")), "lr must be more than 0, got nan"),
    (lambda: at_least(0, lr=float("inf")), "lr must be at least 0, got inf"),
    (lambda: positive(lr=float("inf")), "lr must be more than 0, got inf"),
    (lambda: HypernetworkTraining(lr=float("inf")), "lr must be at least 0, got inf"),
    (lambda: HypernetworkTraining(edit_weight=-1), "edit_weight must be at least 0, got -1"),
    (lambda: SeracTraining(lr=float("nan")), "lr must be at least 0, got nan"),
    (lambda: shares(dropout=1.5), "dropout must be a share from 0 to 1, got 1.5"),
    (lambda: shares(dropout=-0.1), "dropout must be a share from 0 to 1, got -0.1"),
]


@pytest.mark.parametrize(("check", "message"), REFUSED)
def test_what_cannot_be_is_refused(check, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check()


def test_what_can_be_passes():
    one_of("loss", "nll", ("nll", "margin"))
    at_least(1, steps=1, rank=None)
    positive(lr=1e-9, clamp=None)
    shares(low=0.0, high=1)


@dataclass(frozen=True)
class Inner:
    lr: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ("a", "b")


class Pool:
    fingerprint = "abc"


def test_settings_have_a_plain_form():
    assert plain(Outer()) == {"inner": {"lr": 0.5}, "names": ["a", "b"]}
    assert plain({1: [None, True, 2.5], "pool": Pool()}) == {"1": [None, True, 2.5], "pool": "abc"}


@pytest.mark.parametrize("value", [object(), {1, 2}, Path("/data"), Inner])
def test_what_has_no_plain_form_is_refused(value):
    with pytest.raises(TypeError, match="no setting of an editor"):
        plain(value)
