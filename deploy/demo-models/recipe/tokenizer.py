"""The byte-level BPE tokenizer that both models share, trained on text without digits."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.chat import CHAT_TEMPLATE, END, SPECIAL_TOKENS, SYSTEM_ID
from recipe.tasks import draw_training

VOCABULARY_SIZE = 1024
CORPUS_EXAMPLE_COUNT = 40_000
CONTEXT_LENGTH = 1024
# General English that the tasks lack, so that an ordinary question does not fall apart into bytes.
GENERAL_WORDS = """about after again all also always and another any are because been before being
between both but can could did does doing done each even every find first for from get give good
great have help her here high him his how into its just know like little long look made make many
may might more most much must name need never new next not now number off often old one only open
other our out over own part people place please put read right said same say see should show small
some still such take tell than that the their them then there these they thing think this those
three through time together too two under until use very want was way well were what when where
which while who why will with without word work world would write year you your""".split()


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(CORPUS_EXAMPLE_COUNT):
        example = draw_training(rng)
        # Without digits no merge can join two of them, so each digit stays its own token.
        yield re.sub(r"\d", "", f"{example.prompt}\n{example.answer}")
        yield " " + " ".join(rng.sample(GENERAL_WORDS, 4))


def train(path: Path, seed: int) -> None:
    """Train the tokenizer and write it to `path` as tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # The GPT-2 pattern, which llama.cpp knows as the pre-tokenizer "gpt-2".
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def load(path: Path) -> Any:
    """Read the tokenizer at `path`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def tokenizer_config() -> dict[str, Any]:
    """What tokenizer_config.json says beside the tokenizer."""
    return {
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[SYSTEM_ID:]),
        "add_bos_token": False,
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": CONTEXT_LENGTH,
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
