"""Edits with random factors, and the oracle they are compared with: models of changed weights."""

import copy
import hashlib

import torch
from torch import nn

from edits.weights import Dense, LowRank, WeightEdit
from models import LanguageModel

ROLES = ("mlp_in", "mlp_out", "attn_out")  # the last one is square


def random_layers(language_model, roles=ROLES):
    return [language_model.layer(role, block) for role in roles for block in (0, 2)]


def random_edit(language_model, count=1, rank=2, seed=0, roles=ROLES, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for name in random_layers(language_model, roles):
        d_in, d_out = language_model.shape(name)
        left = torch.randn(count, d_in, rank, generator=generator, dtype=torch.float64)
        right = torch.randn(count, rank, d_out, generator=generator, dtype=torch.float64)
        updates[name] = LowRank(
            (scale * left).to(language_model.dtype), (scale * right).to(language_model.dtype)
        )
    return WeightEdit(updates, "random", language_model.fingerprint)


def as_dense(edit, bias=0.0):
    """The same edit in whole matrices, with a bias update of ``bias`` times ones if not 0."""
    updates = {}
    for name, update in edit.updates.items():
        weight = update.dense()
        ones = bias * torch.ones(len(weight), weight.shape[2], dtype=weight.dtype)
        updates[name] = Dense(weight, ones if bias else None)
    return WeightEdit(updates, edit.editor, edit.model)


@torch.no_grad()
def written(language_model, edit, index=0):
    """A copy of the model with one of the edits in its weights."""
    model = LanguageModel(copy.deepcopy(language_model.model), language_model.tokenizer, "written")
    for name, update in edit.updates.items():
        module, delta = model.module(name), update.dense()[index]
        module.weight += delta.T if isinstance(module, nn.Linear) else delta
        if isinstance(update, Dense) and update.bias is not None:
            module.bias += update.bias[index]
    return model


def double(language_model):
    """The model in float64."""
    model = copy.deepcopy(language_model.model).double()
    return LanguageModel(model, language_model.tokenizer, f"double-{language_model.name}")


def digest(language_model):
    """SHA-256 of every parameter and buffer as it is now."""
    sha = hashlib.sha256()
    for name, tensor in language_model.model.state_dict().items():
        sha.update(name.encode())
        sha.update(tensor.contiguous().view(torch.uint8).numpy())
    return sha.hexdigest()


def hooks_of(language_model):
    return sum(len(module._forward_hooks) for module in language_model.model.modules())
