"""MEMIT's course with weights that are written and whole forward passes, text by text."""

import copy

import torch
from samples import CORPUS
from torch import nn

from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.statistics.coordinates import Factor
from models import LanguageModel


@torch.no_grad()
def seen(lm, text: str, end: int, names) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of modules at the last token that starts before character ``end``."""
    encoded = lm.tokenizer(text, return_offsets_mapping=True)
    at = max(i for i, (start, _) in enumerate(encoded["offset_mapping"]) if start < end)
    found, hooks = {}, []

    def look(name):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            found[name] = tuple(x.reshape(-1, x.shape[-1])[at].clone() for x in (args[0], output))

        return hook

    for name in names:
        hooks.append(lm.module(name).register_forward_hook(look(name)))
    lm.model(torch.tensor([encoded["input_ids"]]))
    for hook in hooks:
        hook.remove()
    return found


def moment(lm, layer: str) -> torch.Tensor:
    """E[k k^T] over all tokens of `CORPUS`."""
    keys = []
    hook = lm.module(layer).register_forward_hook(
        lambda module, args, output: keys.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    for text in CORPUS.texts:
        lm.model(torch.tensor([lm.tokenizer(text)["input_ids"]]))
    hook.remove()
    keys = torch.cat(keys)
    return keys.mT @ keys / len(keys)


@torch.no_grad()
def written(
    editor, requests, solve, share, past=None, counted=None
) -> tuple[LanguageModel, dict, dict]:
    """The model with all layers written, the updates ``[d_in, d_out]``, and keys afterwards.

    ``solve(C, K, P)`` gives what residuals are multiplied by, of keys and past keys one a row; C is
    that of the editor's model, or of ``counted``.
    """
    moments = {x: moment(counted or editor.language_model, x) for x in editor.layers}
    for layer, c in moments.items():
        if isinstance(editor.fitted[layer], Factor):
            c += editor.fitted[layer].ridge * c.diagonal().mean() * torch.eye(len(c))
    clean, site = editor.language_model, editor.sites()[0]
    templates = editor.contexts.of(clean)
    lm = LanguageModel(copy.deepcopy(clean.model), clean.tokenizer)
    values = optimise(clean, requests, templates, editor.sites(), editor.search)

    def keys_and_residuals(layer):
        keys, residuals = [], []
        for request, value in zip(requests, values.value(site), strict=True):
            some = []
            for context in templates:
                prefix = context.removesuffix("{}")
                end = len(prefix) + request.span[1]
                found = seen(lm, prefix + request.prompt, end, {layer, site})
                some.append(found[layer][0])
                if context == "{}":
                    residuals.append(value - found[site][1])
            keys.append(some[0] / 2 + torch.stack(some[1:]).mean(0) / 2)
        return torch.stack(keys), torch.stack(residuals)

    updates = {}
    for done, layer in enumerate(editor.layers):
        keys, residuals = keys_and_residuals(layer)
        known = keys[:0] if past is None else past[layer]
        updates[layer] = solve(moments[layer], keys, known) @ residuals
        updates[layer] *= share(len(editor.layers) - done)
        weight = lm.module(layer).weight
        weight += updates[layer].mT if isinstance(lm.module(layer), nn.Linear) else updates[layer]
    return lm, updates, {layer: keys_and_residuals(layer)[0] for layer in editor.layers}
