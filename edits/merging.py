"""A weight edit in the weights: the edited model as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edits.updates import Dense, LowRank
from files import written_whole
from models.experts import down_of, is_packed
from models.families import linear
from models.hooks import compute_dtype
from models.language_model import LanguageModel
from models.loading import bars
from models.quantised import require_matrix

MAX_ROUNDING = 0.1  # share of the update's norm that may be lost to the weights' dtype


def merge(
    language_model: LanguageModel, updates: Mapping[str, LowRank | Dense], folder: Path
) -> None:
    """Write the model's folder with the first edit of ``updates`` in its weights."""
    require_empty(folder)
    state = language_model.model.state_dict()
    for name, update in updates.items():
        module = language_model.module(name)
        state |= (_experts if is_packed(module) else _merged)(module, name, update)
    with written_whole(folder) as draft:
        with bars():
            language_model.model.save_pretrained(draft, state_dict=state)
        language_model.tokenizer.save_pretrained(draft)


def require_empty(folder: Path) -> None:
    """Refuse a folder that holds something, or a file in its place.

    Raises:
        ValueError: it is so.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder")


def _merged(module: nn.Module, name: str, update: LowRank | Dense) -> dict[str, Tensor]:
    """The layer's entries of the state dict, changed; its module type decides the orientation."""
    module = linear(module)
    delta = update.dense()[0].detach()  # [d_in, d_out]
    delta = delta.T if isinstance(module, nn.Linear) else delta
    changed = {f"{name}.weight": _sum(name, require_matrix(name, module.weight), delta)}
    if isinstance(update, Dense) and update.bias is not None:
        if module.bias is None:
            raise ValueError(f"the update of {name!r} moves a bias; the layer has none")
        changed[f"{name}.bias"] = _sum(name, module.bias, update.bias[0].detach())
    return changed


def _experts(module: nn.Module, name: str, update: LowRank | Dense) -> dict[str, Tensor]:
    """As `_merged`, of packed experts."""
    down = down_of(module)
    delta = update.dense()[0].detach().unflatten(0, (len(down), -1)).mT  # [E, d, f]
    return {f"{name}.down_proj": _sum(name, down, delta)}


def _sum(name: str, weight: Tensor, delta: Tensor) -> Tensor:
    dtype = compute_dtype(weight.dtype)
    delta = delta.to(weight.device, dtype)
    exact = weight.detach().to(dtype) + delta
    rounded = exact.to(weight.dtype)
    lost = torch.linalg.vector_norm(rounded.to(dtype) - exact)
    if lost > MAX_ROUNDING * torch.linalg.vector_norm(delta):
        raise ValueError(
            f"rounding to {weight.dtype} would lose more than {MAX_ROUNDING:.0%} of the update of "
            f"{name!r}: load the model in float32 to merge it"
        )
    return rounded
