"""Effects by role of token, and the block that they name."""

import torch

from datamodules.records import Request
from evaluation.locating.traces import ROLES, Located, Trace, effects, recommended

FACT = Request("The capital of Sweden is", "Sweden", "Paris", "Stockholm")


def traced(restored: list[list[float]], subject: tuple[int, int], corrupted=0.0) -> Trace:
    values = torch.tensor(restored)
    tokens = [""] * values.shape[1]
    return Trace(FACT, tokens, subject, 1.0, corrupted, {"mlp": values})


def test_tokens_are_averaged_by_role():
    one = traced([[0, 1, 2, 4, 8, 16, 32, 64, 128]], (1, 4), corrupted=1.0)
    assert one.effects("mlp").tolist() == [[0, 2, 7, 15, 47, 127]]
    assert len(ROLES) == 6


def test_a_role_without_a_token_is_no_number():
    alone = traced([[3, 5]], (1, 1)).effects("mlp")[0]
    assert alone[[0, 2, 5]].tolist() == [5, 5, 5]
    assert alone[[1, 3, 4]].isnan().all()
    before_the_end = traced([[3, 5, 7]], (0, 1)).effects("mlp")[0]
    assert before_the_end[[0, 2, 3, 5]].tolist() == [3, 5, 7, 7]
    assert before_the_end[[1, 4]].isnan().all()


def test_the_block_to_edit_has_the_greatest_effect_on_the_subject_but_is_not_the_last():
    last = [
        traced([[0, 1], [0, 4], [0, 9]], (1, 1)),
        traced([[0, 6], [0, 4], [0, 9]], (1, 1)),
    ]
    found = effects(last)
    assert found["mlp"].shape == (2, 3, 6)
    assert recommended(found) == (1, "first subject token")  # which is the last one, too
    longer = traced([[0, 1, 9, 2, 50], [0, 1, 3, 8, 50], [0, 70, 80, 90, 50]], (1, 3))
    assert recommended(effects([longer])) == (0, "middle subject tokens")
    assert recommended({"hidden": found["mlp"]}) is None


def test_what_was_found_is_summed_up():
    traces = [
        traced([[0, 6], [0, 4]], (1, 1), corrupted=0.25),
        traced([[0, 2], [0, 9]], (1, 1), corrupted=0.5),
    ]
    run = Located("m", 2, traces).run("atlas", "val")
    assert run == {
        "model": "m",
        "data": "atlas",
        "split": "val",
        "facts": 2,
        "clean": 1.0,
        "corrupted": 0.375,
        "window": 2,
        "layer": 0,
        "role": "first subject token",
    }
