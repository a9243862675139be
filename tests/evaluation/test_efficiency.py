import time
from math import isnan

import pytest
import torch

from evaluation.costs import Cost, measured
from evaluation.report.efficiency import efficiency

CPU = torch.device("cpu")


def test_seconds_of_a_block():
    with measured(CPU) as cost:
        assert isnan(cost.seconds)
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 5


def test_peak_memory_holds_what_was_freed_within_the_block():
    with measured(CPU) as before:
        pass
    with measured(CPU) as cost:
        block = torch.ones(2**26)  # 256 MiB
        time.sleep(0.1)
        del block
    assert cost.peak_gib - before.peak_gib == pytest.approx(0.25, abs=0.05)


def test_the_sampler_ends_with_the_block_also_on_an_error():
    with pytest.raises(RuntimeError, match="out of luck"), measured(CPU):
        raise RuntimeError("out of luck")


def test_nothing_measured_gives_no_row():
    assert efficiency({"mend": []}) == []
    assert isnan(Cost().peak_gib)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_of_a_gpu_is_that_of_its_tensors():
    device = torch.device("cuda")
    with measured(device) as before:
        pass
    with measured(device) as cost:
        torch.ones(2**26, device=device)
    assert cost.peak_gib - before.peak_gib == pytest.approx(0.25, abs=0.01)


def chunk(n, edits, seconds, preparing, peak=1.0):
    cost = {"run": {"n": n}, "device": "cpu", "edits": edits, "at_once": n, "edit_seconds": seconds}
    cost |= {"probes": 4, "probe_seconds": 2.0, "peak_gib": peak, "preparation_peak_gib": 2 * peak}
    return cost | {"preparation_seconds": preparing}


def test_preparation_and_training_are_shared_out_among_the_edits():
    costs = {"mend": [chunk(1, 4, 2.0, 3.0), chunk(10, 10, 5.0, 0.0)], "rome": [chunk(1, 0, 0, 0)]}
    training = {"mend": {"seconds": 5.0, "peak_gib": 7.0}}
    one, ten, none = efficiency(costs, training)
    assert (one["seconds_per_edit"], one["seconds_per_edit_in_all"]) == (0.5, 2.5)
    assert (ten["seconds_per_edit"], ten["seconds_per_edit_in_all"]) == (0.5, 1.3)
    assert (ten["preparation_seconds"], ten["preparation_peak_gib"]) == (3.0, 2.0)
    assert (ten["training_seconds"], ten["training_peak_gib"]) == (5.0, 7.0)
    assert none["seconds_per_edit_in_all"] is None and none["training_seconds"] is None
