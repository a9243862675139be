"""Weights and tokenizer from a local folder or from the Hugging Face hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from models.families import family_of

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16", "float64", AUTO)
log = getLogger(__name__)


def number_format(dtype: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The format of a dtype's name; ``auto`` is bfloat16 where the device computes in it.

    A processor without instructions for it would emulate them, slower than float32, so that there
    `auto` is float32, and says so.

    Raises:
        ValueError: unknown dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if dtype != AUTO:
        return getattr(torch, dtype)
    if _computes_in_bfloat16(torch.device(device)):
        return torch.bfloat16
    log.info("dtype=auto: %s has no instructions for bfloat16; the model is in float32", device)
    return torch.float32


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def load_pretrained(
    path: str, dtype: torch.dtype, attention: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model and tokenizer; the weights are read from safetensors, never from a pickle.

    Raises:
        FileNotFoundError: no such folder, no such hub id or no way to reach it, or a file of the
            model is missing.
        ValueError: unknown attention or family, or weights that are broken or incomplete.
    """
    folder = Path(path).expanduser()
    local = folder.is_dir()
    if not local and _looks_local(path):
        raise FileNotFoundError(f"no folder {str(folder)!r} to load a language model from")
    source = str(folder) if local else path
    try:
        return _read(source, dtype, attention, local)
    except OSError as error:
        raise FileNotFoundError(_explained(source, local, error)) from error
    except SafetensorError as error:
        raise ValueError(f"the weights in {source!r} cannot be read: {error}") from error


def _read(
    source: str, dtype: torch.dtype, attention: str, local: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    values, _ = PreTrainedConfig.get_config_dict(source, local_files_only=local)
    if not values:
        raise FileNotFoundError("it has no config.json")
    family = family_of(values)
    if attention not in family.attentions:
        known = ", ".join(family.attentions)
        raise ValueError(f"no attention {attention!r} in family {family.name!r}; it has: {known}")
    tokenizer = _tokenizer(source, local)
    kind = AutoModelForCausalLM if family.encoder is None else AutoModelForSeq2SeqLM
    with bars():
        loaded = kind.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
        )
    model, report = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ValueError(f"the weights in {source!r} lack parameters of the model: {missing}")
    broken = [name for name, w in model.named_parameters() if not w.isfinite().all()]
    if broken:
        raise ValueError(
            f"the weights in {source!r} are broken: {len(broken)} parameters hold NaN or inf, "
            f"such as {broken[0]}"
        )
    return model, tokenizer


@contextmanager
def bars() -> Iterator[None]:
    """The bars that transformers draws over weights, on a terminal only, until the block ends."""
    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _tokenizer(source: str, local: bool) -> PreTrainedTokenizerFast:
    """The tokenizer; without its files transformers makes an empty one, or complains at length."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    except ValueError as error:
        raise FileNotFoundError(f"its tokenizer cannot be read: {_first_line(error)}") from error
    if set(tokenizer("a", add_special_tokens=False)["input_ids"]) <= {*tokenizer.all_special_ids}:
        raise FileNotFoundError("it has no tokenizer files")
    return tokenizer


def _looks_local(path: str) -> bool:
    """Whether a name can only be a folder: hub ids are ``name`` or ``owner/name``."""
    return path.startswith((".", "~", os.sep)) or path.count("/") > 1 or os.path.isabs(path)


def _explained(source: str, local: bool, error: OSError) -> str:
    if local:
        return f"the folder {source!r} holds no complete language model: {_first_line(error)}"
    return (
        f"no language model {source!r}: there is no such folder, and the Hugging Face hub has no "
        f"such id or cannot be reached: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
