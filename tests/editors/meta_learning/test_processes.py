"""Several processes train what one would have trained."""

import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch


@pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")
@pytest.mark.filterwarnings("ignore:`weights_only` was not set")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_reach_what_one_does(strategy, language_model, tmp_path):
    """Statistics are online, so that they have to be merged; sums of squares are large."""
    language_model.save(tmp_path / "model")
    script = Path(processes.__file__)
    paths = os.pathsep.join([str(script.parents[3]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, tmp_path / "model", tmp_path, strategy],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    alone = processes.train(language_model, tmp_path / "alone")
    theirs, ours = saved["state_dict"], alone.state_dict()
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6)
    assert saved["language_model"]["fingerprint"] == language_model.fingerprint
