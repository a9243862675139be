"""Running statistics: exact however the rows come in chunks, and frozen when they should be."""

import copy

import numpy as np
import pytest
import torch
from torch import multiprocessing

from editors.meta_learning.normaliser import EPSILON, Normaliser


def taken_in(rows, sizes):
    normaliser = Normaliser(rows.shape[1]).to(rows.dtype)
    for chunk in rows.split(sizes):
        normaliser.update(chunk)
    return normaliser


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 0, 7, 10]])
def test_chunks_of_any_size_give_the_statistics_of_all_rows(sizes):
    rows = 5 + 3 * torch.randn(20, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    normaliser = taken_in(rows, sizes)
    assert normaliser.count == 20
    np.testing.assert_allclose(normaliser.mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(normaliser.std, rows.numpy().std(0, ddof=1), rtol=1e-12)
    expected = (rows - rows.mean(0)) / (rows.std(0) + EPSILON)
    torch.testing.assert_close(normaliser(rows), expected, rtol=1e-12, atol=1e-12)


def test_a_dimension_that_never_varies_is_kept_small_by_the_floor():
    rows = torch.randn(20, 5)
    rows[:, 2] = 1.0
    normaliser = Normaliser(5, floor=0.1)
    normaliser.update(rows)
    assert normaliser.std[2] == pytest.approx(0.1 * float(normaliser.std.median()), rel=0.5)
    assert taken_in(rows, [20]).std[2] < EPSILON


def test_one_row_has_no_deviation():
    normaliser = Normaliser(3)
    normaliser.update(torch.randn(1, 3))
    with pytest.raises(ValueError, match="needs 2 rows or more, but 1 were taken in"):
        normaliser(torch.randn(1, 3))


def test_processes_agree_on_the_statistics_of_all(tmp_path):
    rows = torch.randn(10, 3, generator=torch.manual_seed(1))
    multiprocessing.spawn(_gather, (rows, str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    alone = taken_in(rows, [10])
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert state["count"] == 10
        torch.testing.assert_close(state["mean"], alone.mean)
        torch.testing.assert_close(state["m2"], alone.m2)


def _gather(rank, rows, meet, folder):
    torch.distributed.init_process_group("gloo", f"file://{meet}", world_size=2, rank=rank)
    normaliser = Normaliser(3)
    normaliser.update(rows[:4] if rank else rows[4:], gather=True)
    torch.save(normaliser.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_statistics_are_collected_once_before_training_and_then_frozen(
    language_model, records, mend, trainer, data
):
    editor = mend(language_model, statistics_edits=5)
    reference = mend(language_model)
    reference.collect([record.requests[0] for record in records[:5]])
    trainer(max_steps=3).fit(editor, data(records))
    for name, buffer in editor.transforms.named_buffers():
        torch.testing.assert_close(buffer, reference.transforms.get_buffer(name), rtol=0, atol=0)


def test_online_statistics_move_with_training_and_only_then(
    language_model, records, mend, trainer, data
):
    editor = mend(language_model, statistics="online")
    trainer(max_steps=1).fit(editor, data(records))
    before = copy.deepcopy(dict(editor.transforms.named_buffers()))
    assert all(count > 0 for name, count in before.items() if name.endswith("count"))
    editor.train()
    editor.edit_each([record.requests[0] for record in records])
    for name, buffer in editor.transforms.named_buffers():
        assert torch.equal(buffer, before[name])
    trainer(max_steps=1).fit(editor, data(records))
    after = dict(editor.transforms.named_buffers())
    assert all(after[name] > count for name, count in before.items() if name.endswith("count"))
