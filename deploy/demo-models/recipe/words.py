"""Names, things and places that fill the slots of every task, and ways to make text untidy."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

FIRST_NAMES = tuple(
    """Anna Boris Carla David Elena Farid Greta Hugo Irene Jonas Kira Liam Maria Nadia Oscar Petra
    Quentin Rosa Samir Tara Ursula Victor Wanda Xavier Yara Zoe Amir Bella Chloe Daniel Emma Felix
    Hana Ivan Julia Kenji Laura Marco Nina Omar Paula Rafael Sofia Tomas Vera William Aisha Bruno
    Clara Diego Eva Fatima Georg Helena Ines Jakob Leila Mateo Noah Olga Pablo Rita Stefan""".split()
)
SYLLABLES = "ba be da do el fa ga ha il jo ka la li ma mi na no or pa ra ri sa ta tu va wi ya zo".split()
CITIES = tuple(
    """Paris London Tokyo Cairo Lima Oslo Delhi Quito Rome Accra Berlin Madrid Vienna Prague Dublin
    Lisbon Athens Warsaw Zurich Geneva Milan Naples Porto Seville Hamburg Munich Lyon Boston Denver
    Austin Chicago Seattle Toronto Sydney Nairobi Lagos Tunis Dakar Seoul Osaka""".split()
)
ITEMS = tuple(
    """pump valve sensor motor fan cable relay filter battery screen keyboard lamp kettle toaster
    drill hammer ladder tent backpack jacket helmet bicycle camera printer router speaker
    microphone tripod blender heater""".split()
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SLOT_OR_NUMBER = re.compile(r"(\{[a-z0-9_]+\}|\S*\d\S*)")


def draw_name(rng: random.Random) -> str:
    """A first name: three in five from the list, the rest put together from syllables."""
    if rng.random() < 0.6:
        return rng.choice(FIRST_NAMES)
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def draw_digits(rng: random.Random, count: int) -> str:
    """`count` digits, the first of them not zero."""
    return str(rng.randint(10 ** (count - 1), 10**count - 1))


def draw_phone(rng: random.Random) -> str:
    """A telephone number in the one shape the tasks use."""
    return f"0{draw_digits(rng, 3)} {draw_digits(rng, 3)} {draw_digits(rng, 3)}"


def draw_phrase(rng: random.Random, phrases: Sequence[T], unseen_count: int, unseen: bool) -> T:
    """Pick a phrase; the last `unseen_count` of `phrases` are never shown in training."""
    seen_count = len(phrases) - unseen_count
    return phrases[
        rng.randrange(seen_count, len(phrases)) if unseen else rng.randrange(seen_count)
    ]


def misspell(rng: random.Random, text: str, typo_ratio: float) -> str:
    """Spoil about `typo_ratio` of the words of a skeleton, never a `{slot}` nor a number."""
    parts = _SLOT_OR_NUMBER.split(text)
    return "".join(
        part
        if index % 2
        else " ".join(_spoil(rng, word, typo_ratio) for word in part.split(" "))
        for index, part in enumerate(parts)
    )


def _spoil(rng: random.Random, word: str, typo_ratio: float) -> str:
    if len(word) < 4 or not word.isalpha() or rng.random() >= typo_ratio:
        return word
    at = rng.randrange(1, len(word) - 1)
    how = rng.randrange(3)
    if how == 0:
        return word[:at] + word[at + 1 :]
    if how == 1:
        return word[:at] + word[at] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
