"""A language model in parts on several devices (FSDP2), and an editor that all of them train."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from models.language_model import LanguageModel


def shard(language_model: LanguageModel, mesh: DeviceMesh) -> None:
    """Leave each process a part of every transformer block, gathered while the block runs.

    Embeddings and head stay whole: they run outside the model's own forward pass, too. The
    fingerprint is taken before, while the weights are whole. Since all processes gather a block
    together, each has to make as many passes as the others, whatever its questions.
    """
    assert language_model.fingerprint
    for block in range(language_model.blocks):
        fully_shard(language_model.module(language_model.block(block)), mesh=mesh)
    language_model.sharded = True


@torch.no_grad()
def averaged(gradients: Iterable[torch.Tensor]) -> None:
    """Replace each gradient by its mean over the processes; together, since most are small."""
    gradients = list(gradients)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def same(parameters: Iterable[nn.Parameter]) -> None:
    """Give all processes the first one's values."""
    for parameter in parameters:
        dist.broadcast(parameter.data, 0)
