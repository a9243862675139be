"""The losses, on cases whose values are known."""

import math

import pytest
import torch

from editors.descent import means
from editors.meta_learning.batches import FILLED, parts_by_length, predicted, predicting
from editors.meta_learning.losses import kl, nll
from models import Batch


def test_divergence_is_zero_only_from_itself_and_has_a_direction():
    before, after = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    assert kl(before, before).item() == pytest.approx(0, abs=1e-7)
    there = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    back = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl(before, after).item() == pytest.approx(there)
    assert kl(after, before).item() == pytest.approx(back)


def test_each_label_is_predicted_one_position_before_it():
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, -100, -100]])
    batch = Batch(torch.zeros_like(labels), torch.ones_like(labels), labels)
    assert predicting(batch).nonzero().tolist() == [[0, 1], [0, 2], [1, 0]]
    assert predicted(batch).tolist() == [7, 8, 5]


def test_means_are_taken_within_each_example():
    values, row = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2])
    assert means(values, row, 4).tolist() == [2, 0, 5, 0]


def test_likelihood_of_equal_odds():
    assert nll(torch.zeros(1, 8), torch.tensor([3])).item() == pytest.approx(math.log(8))


def test_parts_hold_every_row_once_with_little_padding():
    lengths = torch.tensor([3, 20, 9, 10, 4, 19])
    mask = (torch.arange(20) < lengths[:, None]).long()
    ids = mask * torch.arange(1, 7)[:, None]
    parts = parts_by_length(Batch(ids, mask, ids))
    assert [rows.tolist() for rows, _ in parts] == [[1, 5], [3, 2], [4, 0]]
    for rows, part in parts:
        assert torch.equal(part.input_ids, ids[rows, : part.input_ids.shape[1]])
        assert part.input_ids.shape[1] == lengths[rows].max()
        assert part.attention_mask.sum(1).min() >= FILLED * part.input_ids.shape[1]
