"""Changes keep out of the directions in which ordinary text is steep."""

from types import SimpleNamespace

import pytest
import torch

from editors.breadth_first import Epochs
from editors.locate_then_edit.statistics.curvature import (
    Curvature,
    flat,
    kronecker_factors,
    threshold,
)
from editors.locft import LocFt
from models.capture import captured

TEXTS = ["Berlin is in Germany .", "The capital of Japan is Tokyo .", "Lagos is in Nigeria ."]


@pytest.fixture
def corpus():
    return SimpleNamespace(texts=TEXTS, fingerprint="texts")


def moment(d, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 * d, d, generator=generator, dtype=torch.float64)
    return (rows * torch.logspace(0, -3, d, dtype=torch.float64)).T @ rows / len(rows)


def spectra():
    sides = (moment(9, 0) + moment(9, 0).T, moment(6, 1) + moment(6, 1).T)
    return [torch.linalg.eigvalsh(side @ side) for side in sides]


@pytest.mark.parametrize("energy", [0.2, 0.5, 0.9, 0.999])
def test_the_threshold_is_that_of_the_sorted_products(energy):
    a, b = spectra()
    steepest = (a[:, None] * b).flatten().sort(descending=True).values
    count = int((steepest.cumsum(0) < energy * steepest.sum()).sum()) + 1
    found = threshold(a, b, energy)
    assert int((a[:, None] * b >= found).sum()) == count


@pytest.mark.parametrize("energy", [0.0, 0.5, 0.95])
def test_allowed_changes_are_a_subspace_with_little_curvature(energy):
    one, other = (torch.randn(2 * d, d, dtype=torch.float64) for d in (9, 6))
    inputs, outputs = one.T @ one, other.T @ other
    allowed = flat(inputs, outputs, energy)
    change = torch.randn(9, 6, dtype=torch.float64)
    part = allowed.part(change)
    torch.testing.assert_close(allowed.part(part), part)
    if energy == 0:
        torch.testing.assert_close(part, change)
    a, b = (torch.linalg.eigvalsh(side) for side in (inputs, outputs))
    steepest = threshold(a, b, energy) * change.square().sum()
    assert (part * (inputs @ part @ outputs)).sum() <= steepest


def test_factors_are_those_of_each_text_alone(exact, corpus):
    [layer] = layers = [exact.layer("mlp_out", 1)]
    inputs, outputs = kronecker_factors(exact, layers, Curvature(corpus))[layer]
    keys, slopes = [], []
    for text in TEXTS:
        batch = exact.encode([text], None)
        with captured(exact, layers, gradients=True) as captures:
            logits = exact.head(exact.hidden(batch))[0, :-1]
            targets = batch.input_ids[0, 1:]
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            [slope] = torch.autograd.grad(loss, [captures[layer].output])
        keys.append(captures[layer].keys[0, :-1])
        slopes.append(slope[0, :-1])
    for found, rows in ((inputs, torch.cat(keys)), (outputs, torch.cat(slopes))):
        torch.testing.assert_close(found, rows.T @ rows / len(rows), rtol=1e-8, atol=1e-12)


def edited(model, constraint, requests):
    layers, epochs = [model.layer("mlp_out", 1)], Epochs(most=5, batch_size=3)
    editor = LocFt(model, layers=layers, lr=0.01, epochs=epochs, constraint=constraint)
    return editor, editor.edit(requests).updates[layers[0]].dense()[0]


def test_without_energy_it_is_fine_tuning(exact, corpus, requests):
    _, plain = edited(exact, None, requests)
    _, free = edited(exact, Curvature(corpus, energy=0.0), requests)
    torch.testing.assert_close(free, plain, rtol=1e-9, atol=1e-12)


def test_an_edit_lies_in_the_flat_directions(exact, corpus, requests):
    editor, change = edited(exact, Curvature(corpus, energy=0.9), requests)
    assert editor.name == "crispedit" and change.abs().max() > 0
    [allowed] = editor.flat.values()
    torch.testing.assert_close(allowed.part(change), change, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"energy": 1.5}, "energy"), ({"limit": 0}, "limit"), ({"corpus": None}, "give one")],
)
def test_settings_that_make_no_sense(corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        Curvature(**{"corpus": corpus, **settings})


def test_texts_of_one_token_have_no_curvature(exact):
    short = SimpleNamespace(texts=["is"], fingerprint="short")
    with pytest.raises(ValueError, match="second token"):
        Curvature(short).of(exact, [exact.layer("mlp_out", 1)])


def test_biases_have_no_curvature(exact, corpus):
    with pytest.raises(ValueError, match="bias"):
        LocFt(exact, bias=True, constraint=Curvature(corpus))
