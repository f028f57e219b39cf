"""Customer support: the intent of a message decides the reply, its slots are copied into it."""

from __future__ import annotations

import random
import string

from recipe.examples import Example, Level, Phrasing
from recipe.support_phrases import (
    CHATTY_OPENERS,
    CLOSERS,
    DISTRACTORS,
    INTENTS,
    LINKS,
    OPENERS,
    SELF_INTRODUCTIONS,
    SIGN_OFFS,
    UNSEEN_COUNT,
)
from recipe.words import (
    CITIES,
    DAYS,
    ITEMS,
    draw_digits,
    draw_name,
    draw_phone,
    draw_phrase,
    misspell,
)

TASK = "support"
SMALL_TALK = ("thanks", "greeting", "human_agent", "out_of_scope")
REQUESTS = tuple(name for name in INTENTS if name not in SMALL_TALK)
TYPO_RATIO = 0.12


def draw_order(rng: random.Random) -> str:
    """An order number: five or six digits, with a letter before them now and then."""
    letter = rng.choice("ABKR") if rng.random() < 0.3 else ""
    return letter + draw_digits(rng, rng.choice((5, 6)))


def _draw_slots(rng: random.Random) -> dict[str, str]:
    return {
        "order": draw_order(rng),
        "city": rng.choice(CITIES),
        "item": rng.choice(ITEMS),
        "day": rng.choice(DAYS),
        "quantity": str(rng.randint(10, 400)),
    }


def _draw_noise(rng: random.Random) -> dict[str, str]:
    return {
        "phone": draw_phone(rng),
        "other_order": draw_order(rng),
        "other_name": draw_name(rng),
        "other_item": rng.choice(ITEMS),
        "other_city": rng.choice(CITIES),
        "day": rng.choice(DAYS),
    }


def _slots_of(skeleton: str) -> list[str]:
    return [field for _, field, _, _ in string.Formatter().parse(skeleton) if field]


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _end(text: str) -> str:
    return text if text.endswith(("?", "!", ".")) else text + "."


def _request(
    rng: random.Random, intent: str, unseen: bool, typos: bool
) -> tuple[str, str, list[str]]:
    """One request of `intent`: its text, the reply to it, and what names the instance."""
    skeleton = draw_phrase(rng, INTENTS[intent].requests, UNSEEN_COUNT, unseen)
    slots = _draw_slots(rng)
    filled = [f"{slot}={slots[slot]}" for slot in sorted(_slots_of(skeleton))]
    text = misspell(rng, skeleton, TYPO_RATIO) if typos else skeleton
    reply = INTENTS[intent].reply.format(**slots)
    return text.format(**slots), reply, [intent, *filled]


def _draw_easy(rng: random.Random, phrasing: Phrasing) -> Example:
    small_talk = rng.random() < 0.15
    intent = rng.choice(SMALL_TALK if small_talk else REQUESTS)
    text, reply, identity = _request(rng, intent, phrasing == "unseen", typos=False)
    opener = rng.choice(OPENERS) if rng.random() < 0.3 and intent != "greeting" else ""
    text = opener + (text if opener else _capitalise(text) if rng.random() < 0.8 else text)
    if not small_talk and rng.random() < 0.5:
        name = draw_name(rng)
        identity.append(f"name={name}")
        reply = f"Hello {name}. {reply}"
        if rng.random() < 0.5:
            text = f"{rng.choice(SELF_INTRODUCTIONS).format(name=name)} {_capitalise(text)}"
        else:
            text = _end(text) + rng.choice(SIGN_OFFS).format(name=name)
    elif rng.random() < 0.2:
        text = _end(text) + rng.choice(CLOSERS)
    if len(identity) == 1:
        identity.append(text.lower())
    return Example(
        TASK, "easy", intent, phrasing, text, reply, ("support|" + "|".join(identity),)
    )


def _draw_hard(rng: random.Random, phrasing: Phrasing) -> Example:
    unseen, typos = phrasing == "unseen", rng.random() < 0.7
    two = rng.random() < 0.5
    intents = rng.sample(REQUESTS, 2) if two else [rng.choice(REQUESTS)]
    requests = [_request(rng, intent, unseen, typos) for intent in intents]
    name = draw_name(rng)
    identity = [part for _, _, parts in requests for part in parts] + [f"name={name}"]

    parts = [_end(_capitalise(requests[0][0]))]
    if two:
        parts[0] += rng.choice(LINKS) + _end(requests[1][0])
    distractor = misspell(rng, rng.choice(DISTRACTORS), TYPO_RATIO * typos)
    parts.insert(rng.randint(0, len(parts)), distractor.format(**_draw_noise(rng)))
    if rng.random() < 0.4:
        chatter = misspell(rng, rng.choice(CHATTY_OPENERS), TYPO_RATIO * typos)
        parts.insert(0, chatter.format(**_draw_noise(rng)))
    signed_off = rng.random() < 0.5
    if signed_off:
        parts[-1] += rng.choice(SIGN_OFFS).format(name=name)
    else:
        parts.insert(0, rng.choice(SELF_INTRODUCTIONS).format(name=name))
    reply = f"Hello {name}. " + " ".join(reply for _, reply, _ in requests)
    kind = "two_requests" if two else "one_request"
    return Example(
        TASK, "hard", kind, phrasing, " ".join(parts), reply, ("support|" + "|".join(identity),)
    )


def draw(rng: random.Random, level: Level, phrasing: Phrasing) -> Example:
    """Draw one customer message of `level`."""
    return _draw_easy(rng, phrasing) if level == "easy" else _draw_hard(rng, phrasing)
