"""A weight edit as a LoRA adapter in the format of ``peft`` (https://github.com/huggingface/peft).

An adapter adds ``lora_alpha / r * (x @ A.T) @ B.T`` to a layer's output. ``lora_alpha`` is the rank
here, so that the two factors are the update: exactly where it is in factors, and by a singular
value decomposition where it is a whole matrix. What an update adds to a bias is the bias of B.
"""

# r rank, d_in/d_out layer widths

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from edits.merging import require_empty
from edits.updates import Dense, LowRank
from files import written_whole
from models.experts import is_packed
from models.language_model import LanguageModel

logger = logging.getLogger(__name__)


def export(
    language_model: LanguageModel,
    updates: Mapping[str, LowRank | Dense],
    folder: Path,
    rank: int | None,
) -> None:
    """Write the first edit of ``updates``, each layer's in factors of at most ``rank``.

    Beside peft's two files stands ``errata.json``: the base model's fingerprint, each layer's rank
    and its ``residual``, the share of the update's norm that the factors leave out.
    """
    require_empty(folder)
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    residuals: dict[str, float] = {}
    for name, update in updates.items():
        if is_packed(language_model.module(name)):
            raise ValueError(
                f"{name!r} holds packed experts, which no adapter does: merge the edit"
            )
        left, right, residuals[name] = _factors(update, rank)
        ranks[name] = left.shape[1]
        for part, factor in (("lora_A", left.T), ("lora_B", right.T)):
            tensors[f"base_model.model.{name}.{part}.weight"] = factor.cpu().contiguous()
    biases = _biases(updates)
    tensors |= {f"base_model.model.{name}.lora_B.bias": bias for name, bias in biases.items()}
    worst = max(residuals, key=lambda name: residuals[name])
    logger.info("adapter in %s: residual at most %.2g (%s)", folder, residuals[worst], worst)
    layers = {name: {"rank": ranks[name], "residual": residuals[name]} for name in ranks}
    origin = {"model": language_model.fingerprint, "layers": layers}
    with written_whole(folder) as draft:
        draft.mkdir()
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        _write_json(draft / "adapter_config.json", _config(language_model, ranks, bool(biases)))
        _write_json(draft / "errata.json", origin)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _config(
    language_model: LanguageModel, ranks: Mapping[str, int], biased: bool
) -> dict[str, Any]:
    """What peft reads; ranks by layer, since updates differ in them."""
    conv = [isinstance(language_model.module(name), Conv1D) for name in ranks]
    decoder_only = language_model.family.encoder is None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if decoder_only else "SEQ_2_SEQ_LM",
        "base_model_name_or_path": language_model.name,
        "inference_mode": True,
        "target_modules": list(ranks),
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": dict(ranks),
        "alpha_pattern": dict(ranks),
        "lora_dropout": 0.0,
        "fan_in_fan_out": any(conv),
        "bias": "none",
        "lora_bias": biased,
    }


def _biases(updates: Mapping[str, LowRank | Dense]) -> dict[str, Tensor]:
    """What is added to each layer's bias, zeros included; nothing where no update moves one."""
    biases = {
        name: update.bias[0].detach().cpu()
        for name, update in updates.items()
        if isinstance(update, Dense) and update.bias is not None and update.bias.any()
    }
    if not biases:
        return {}
    zeros = {name: torch.zeros(update.shape[1]) for name, update in updates.items()}
    return {name: biases.get(name, zeros[name]).contiguous() for name in updates}


def _factors(update: LowRank | Dense, rank: int | None) -> tuple[Tensor, Tensor, float]:
    """``[d_in, r]``, ``[r, d_out]``, and the share of the update's norm that they leave out."""
    if isinstance(update, LowRank):
        left, right = _without_zeros(update.left[0].detach(), update.right[0].detach())
        if rank is None or left.shape[1] <= rank:
            return left, right, 0.0
    return _decomposed(update.dense()[0].detach(), rank)


def _without_zeros(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Without what stacking filled up; peft has no rank 0, so one column at least is left."""
    used = left.any(0) & right.any(1)
    if not used.any():
        return left.new_zeros(len(left), 1), right.new_zeros(1, right.shape[1])
    return left[:, used], right[used]


def _decomposed(weight: Tensor, rank: int | None) -> tuple[Tensor, Tensor, float]:
    """As `_factors`, the best ones of their rank: by default the numerical rank of the matrix."""
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    noise = s[0] * max(weight.shape) * torch.finfo(weight.dtype).eps
    count = max(int((s > noise).sum()), 1)
    count = count if rank is None else min(count, rank)
    whole, left_out = torch.linalg.vector_norm(s), torch.linalg.vector_norm(s[count:])
    root = s[:count].sqrt()
    left, right = u[:, :count] * root, root[:, None] * vh[:count]
    residual = float(left_out / whole) if whole > 0 else 0.0
    return left.to(weight.dtype), right.to(weight.dtype), residual
