"""Reading the numbers of the authors' code, and comparing ours with them."""

import torch
from safetensors import safe_open

from models import Batch


def read(golden, name):
    """Tensors by name, and the settings."""
    path = golden / "trained_editors" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / max(1.0, theirs.abs().max())
    assert error <= tolerance, f"error {error:.1e}, allowed {tolerance:.0e}"


def batch_of(tensors, name, width=None):
    ids, mask = (tensors[f"inputs/{name}_{part}"] for part in ("input_ids", "attention_mask"))
    labels = tensors.get(f"inputs/{name}_labels", torch.full_like(ids, -100))
    gap = 0 if width is None else width - ids.shape[1]
    pad = torch.nn.functional.pad
    return Batch(pad(ids, (0, gap)), pad(mask, (0, gap)), pad(labels, (0, gap), value=-100))
