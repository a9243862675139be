"""Fixtures that every test shares: tiny language models with random weights, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from functools import cache
from pathlib import Path

import pytest
import torch
from answers import ANSWERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from datamodules.documents import FactText
from models import LanguageModel
from models.pretraining import blank

FAMILY_NAMES = (
    "gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma",
)  # fmt: skip
ENCODER_DECODER_NAMES = ("t5", "t5_gated", "bart")
END = "<|endoftext|>"
SENTENCES = (
    "The Eiffel Tower is in the city of Paris, the capital of France.",
    "Gothenburg is a city in Sweden, and the capital of Sweden is Stockholm.",
    "Which country is Lagos in? Lagos is in Nigeria, where people speak English.",
    "Marie Curie was born in Warsaw. She was a citizen of Poland and of France.",
    "The currency of Japan is the yen. Tokyo is the capital of Japan, in Asia.",
    "What is the mother tongue of Angela Merkel? The mother tongue is German.",
    "The citizens of Germany speak German; the country uses the euro in Europe.",
)


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded():
    torch.set_num_threads(1)
    logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """``$ERRATA_CACHE`` as it was; what tests keep lies in a folder of their own."""
    before = os.environ.get("ERRATA_CACHE")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERRATA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield before


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws does not depend on which tests its process ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's: no BOS, no pad token of its own."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


@pytest.fixture(scope="session")
def tiny(tokenizer):
    """``tiny(family, seed=0, **config)``: a random language model, made once a session.

    Three blocks of width 32 unless the configuration says otherwise, biases and norms random too.
    It is shared: a test that changes weights works on ``copy.deepcopy(tiny(...).model)``.
    """

    @cache
    def build(family: str, seed: int = 0, **overrides) -> LanguageModel:
        kind = AutoModelForSeq2SeqLM if family in ENCODER_DECODER_NAMES else AutoModelForCausalLM
        model_type = family.removesuffix("_gated")
        config = AutoConfig.for_model(model_type, **{**_sizes(family, tokenizer), **overrides})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = kind.from_config(config, dtype=torch.float32, attn_implementation="eager")
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.1)
        return LanguageModel(model, tokenizer, name=f"tiny-{family}")

    return build


def _sizes(family: str, tokenizer: PreTrainedTokenizerFast) -> dict:
    end = tokenizer.eos_token_id
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": None,
    }
    own = {
        "gpt2": {"n_inner": 64, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
        "gptj": {"n_inner": 64, "rotary_dim": 4},
        "gpt_neox": {"intermediate_size": 64},
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    }
    t5 = {"d_ff": 64, "d_kv": 8, "num_decoder_layers": 3}
    ends = {"pad_token_id": end, "decoder_start_token_id": end}
    own |= {
        "t5": t5 | ends,
        "t5_gated": t5 | ends | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "bart": _stacks() | ends,
    }
    gated = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    chosen = gated | {"num_experts_per_tok": 2}
    own |= {
        "mixtral": chosen | {"num_local_experts": 4, "intermediate_size": 24},
        "qwen3_moe": chosen | {"num_experts": 6, "moe_intermediate_size": 24},
    }
    return {**sizes, **own.get(family, gated)}


@pytest.fixture(scope="session")
def language_model(tiny) -> LanguageModel:
    """A tiny GPT-2 in float32; read-only."""
    return tiny("gpt2")


def _stacks() -> dict:
    sizes = {"layers": 3, "attention_heads": 4, "ffn_dim": 64}
    return {f"{s}_{key}": size for s in ("encoder", "decoder") for key, size in sizes.items()}


@pytest.fixture(params=FAMILY_NAMES)
def any_family(request, tiny) -> LanguageModel:
    """A tiny decoder-only language model of each family in turn; read-only."""
    return tiny(request.param)


@pytest.fixture(params=ENCODER_DECODER_NAMES)
def any_encoder_decoder(request, tiny) -> LanguageModel:
    """A tiny encoder-decoder of each family in turn; read-only."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def answering():
    """``answering(family)``: a small encoder-decoder that has learned `ANSWERS`, made once."""

    @cache
    def build(family: str) -> LanguageModel:
        prompts, answers = map(list, zip(*ANSWERS, strict=True))
        sizes = {"t5": {"d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 3}}
        sizes["t5_gated"] = sizes["t5"] | {"feed_forward_proj": "gated-gelu"}
        sizes["bart"] = _stacks() | {"max_position_embeddings": 64}
        lm = blank(
            FactText(ANSWERS),
            vocabulary=400,
            family=family.removesuffix("_gated"),
            name=f"answering-{family}",
            d_model=32,
            **sizes[family],
        )
        batch = lm.encode(prompts, answers)
        lr = 5e-3 if family == "bart" else 1e-2  # at more, rounding decides whether BART learns
        optimizer = torch.optim.Adam(lm.model.requires_grad_().parameters(), lr)
        for _ in range(400):
            logits, targets, _ = lm.target_logits(batch)
            loss = torch.nn.functional.cross_entropy(logits, targets)
            if loss < 0.01:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        else:
            raise RuntimeError(f"the small {family} did not learn its facts, loss {loss:.3f}")
        for parameter in lm.model.requires_grad_(False).parameters():
            parameter.grad = None
        return lm

    return build


@pytest.fixture(params=ENCODER_DECODER_NAMES)
def any_answering(request, answering) -> LanguageModel:
    """An encoder-decoder of each family in turn that has learned `ANSWERS`; read-only."""
    return answering(request.param)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers from the authors' implementations, see its README."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published data sets beside the repository; skips where it is not there."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"published data sets are not here: no folder {folder}")
    return folder
