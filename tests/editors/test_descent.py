"""Edits that descend side by side are the edits that descend alone, each with its own end."""

import pytest
import torch

from editors.descent import Descent, means

TARGETS = torch.tensor([0.4, -3.0, 1.5, 0.02])


def starts(count=4):
    """Two tensors for each edit: a matrix and a number."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 3), ())
    return [
        [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        for _ in range(count)
    ]


def loss_of(tensors, target):
    matrix, number = tensors
    return ((matrix * number).sum() - target) ** 2 + 0.1 * matrix.square().sum()


def descended(tensors, targets, stop=0.3, bad=(), **options):
    """Runs a descent; gives the losses that each edit met."""
    history = [[] for _ in tensors]

    def losses(active):
        each = [loss_of(tensors[n], targets[n]) for n in active]
        return torch.stack(
            [x * float("nan") if n in bad else x for n, x in zip(active, each, strict=True)]
        )

    def done(active, values):
        for number, value in zip(active, values.tolist(), strict=True):
            history[number].append(value)
        return values < stop

    hooks = {name: options.pop(name) for name in ("slope", "project", "skip") if name in options}
    descent = Descent(tensors, **{"steps": 40, "lr": 0.1, **options})
    descent.run(losses, done, **hooks)
    return descent, history


@pytest.mark.parametrize("fused", [False, True])
def test_side_by_side_is_one_by_one_to_the_bit(fused):
    together = starts()
    _, history = descended(together, TARGETS, fused=fused)
    assert len({len(losses) for losses in history}) > 1  # they stop at different steps
    for number, own in enumerate(starts()):
        _, (alone,) = descended([own], TARGETS[number : number + 1], fused=fused)
        assert history[number] == alone
        for one, other in zip(together[number], own, strict=True):
            assert torch.equal(one, other)


def test_an_edit_that_has_stopped_stays_as_it_is_to_the_bit():
    tensors, kept = starts(), {}

    def keep(active):
        for number in set(range(len(tensors))) - set(active) - set(kept):
            kept[number] = [tensor.detach().clone() for tensor in tensors[number]]

    _, history = descended(tensors, TARGETS, project=keep)
    lengths = [len(losses) for losses in history]
    early = [number for number in kept if lengths[number] + 1 < max(lengths)]
    assert early
    for number in early:
        for one, other in zip(tensors[number], kept[number], strict=True):
            assert torch.equal(one, other)


def test_what_is_done_at_once_does_not_move():
    tensors, before = starts(), starts()
    descended(tensors, TARGETS, stop=float("inf"))
    for one, other in zip(tensors, before, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("last", [True, False])
def test_the_last_loss_is_followed_by_a_step_or_not(last):
    tensors, shorter = starts(1), starts(1)
    _, (history,) = descended(tensors, TARGETS, stop=0.0, steps=5, last=last)
    descended(shorter, TARGETS, stop=0.0, steps=5 if last else 4)
    assert len(history) == 5
    assert all(map(torch.equal, tensors[0], shorter[0]))


def test_one_step_without_the_last_changes_nothing():
    tensors = starts(1)
    descended(tensors, TARGETS, steps=1, last=False)
    assert all(map(torch.equal, tensors[0], starts(1)[0]))


def test_edits_without_a_finite_gradient_are_flagged_and_stay():
    tensors, alone = starts(), starts()
    descent, history = descended(tensors, TARGETS, bad={1})
    assert descent.unsound == {1} and len(history[1]) == 1
    assert all(map(torch.equal, tensors[1], starts()[1]))
    descended(alone, TARGETS)
    for number in (0, 2, 3):
        assert all(map(torch.equal, tensors[number], alone[number]))
    sound, _ = descended(starts(), TARGETS)
    assert sound.unsound == set()


def test_all_unsound_ends_the_descent():
    tensors = starts()
    descent, history = descended(tensors, TARGETS, bad=set(range(4)))
    assert descent.unsound == {0, 1, 2, 3}
    assert [len(losses) for losses in history] == [1, 1, 1, 1]


def test_what_is_descended_may_be_more_than_the_gradient():
    decayed, by_hand = starts(1), starts(1)

    def slope(number, at, gradient):
        return gradient + 0.5 * decayed[number][at].detach()

    descended(decayed, TARGETS, stop=0.0, steps=6, slope=slope)
    adam = torch.optim.Adam(by_hand[0], 0.1, weight_decay=0.5)
    for _ in range(6):
        adam.zero_grad()
        loss_of(by_hand[0], TARGETS[0]).backward()
        adam.step()
    for one, other in zip(decayed[0], by_hand[0], strict=True):
        torch.testing.assert_close(one, other)


def test_tensors_are_brought_back_after_each_step():
    tensors = starts()
    highest = []

    def clamp(active):
        for number in active:
            highest.append(max(float(tensor.abs().max()) for tensor in tensors[number]))
            for tensor in tensors[number]:
                tensor.clamp_(-0.2, 0.2)

    descended(tensors, TARGETS, stop=0.0, project=clamp)
    assert max(highest) > 0.2
    assert all(tensor.abs().max() <= 0.2 for own in tensors for tensor in own)


def test_a_skipped_step_leaves_tensors_and_adam_as_they_were():
    """With every second step skipped, the others are those of half as many steps."""
    calls = iter(range(8))

    def skip(active, values):
        return torch.full_like(values, next(calls) % 2 == 0, dtype=torch.bool)

    halting, plain = starts(), starts()
    descended(halting, TARGETS, stop=0.0, steps=8, skip=skip)
    descended(plain, TARGETS, stop=0.0, steps=4)
    for ours, theirs in zip(halting, plain, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_what_makes_no_descent_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Descent(starts(), steps=0, lr=0.1)
    with pytest.raises(ValueError, match="lr must be more than 0, got 0"):
        Descent(starts(), steps=1, lr=0.0)


def test_means_of_groups():
    values, group = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2, 2, 0])
    assert means(values, group, 4).tolist() == [5.0, 0.0, 1.5, 0.0]


def test_gradients_are_clipped_edit_by_edit_and_weights_decay_as_in_torch():
    ours, theirs = starts(), starts()
    options = {"steps": 6, "lr": 0.1, "weight_decay": 0.05}
    descended(ours, TARGETS, stop=-1.0, clip=0.5, **options)
    for tensors, target in zip(theirs, TARGETS, strict=True):
        adam = torch.optim.Adam(tensors, lr=0.1, weight_decay=0.05)
        for _ in range(6):
            adam.zero_grad()
            loss_of(tensors, target).backward()
            torch.nn.utils.clip_grad_norm_(tensors, 0.5)
            adam.step()
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
