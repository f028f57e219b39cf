"""Arithmetic tutoring: sums, differences, products and word problems with their worked steps."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from recipe.examples import Example, Level, Phrasing
from recipe.words import draw_name, draw_phrase

TASK = "math"
UNSEEN_COUNT = 2

ASKS = (
    "What is {sum}?",
    "Calculate {sum}.",
    "{sum} = ?",
    "Please work out {sum}.",
    "Compute {sum}",
    "How much is {sum}?",
    "{sum}",
    "Can you solve {sum} for me?",
    "I need the result of {sum}.",
    "Show me how to do {sum}.",
    "what's {sum}",
    "Tell me what {sum} makes.",
    "Could you help me find {sum}?",
)
SIGNS = {"+": ("+", "+", "plus"), "-": ("-", "-", "minus"), "*": ("*", "x", "×", "times")}
THINGS = (
    "apples pens books coins shells stamps cards marbles eggs tickets stickers bottles".split()
)
_STATED_SUM = re.compile(r"(\d+) ([+*-]) (\d+)(?= =|:)")
PACKS = "boxes bags trays shelves crates rows packs baskets".split()

GAINS = (
    "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
    "There are {a} {things} on a table. {name} adds {b}. How many {things} are there?",
    "{name} found {a} {things} in the morning and {b} in the evening. How many in all?",
    "A shop has {a} {things} and receives {b} more. How many {things} is that?",
    "{name} had {a} {things}, then got {b} as a gift. How many {things} is that now?",
    "{a} {things} are in one bag and {b} in another. What is the total?",
    "{name} counts {a} {things}; a friend counts {b} others. How many did they count together?",
)
LOSSES = (
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "There are {a} {things} in a shop. {name} buys {b}. How many {things} remain?",
    "{name} had {a} {things} but lost {b}. How many {things} does {name} still have?",
    "A box holds {a} {things}. {b} are taken out. How many {things} stay in the box?",
    "{name} collected {a} {things} and sold {b}. How many are left over?",
    "Of {a} {things}, {b} are broken. How many are whole?",
    "{name} owns {a} {things} and lends {b} to a friend. How many are still at home?",
)
PACK_THEN_LOSE = (
    "{name} has {a} {packs} with {b} {things} each and sells {c}. How many {things} are left?",
    "A shop gets {a} {packs} of {b} {things} and throws away {c}. How many {things} remain?",
    "There are {a} {packs}, each with {b} {things}. {name} takes {c}. How many stay?",
    "{name} fills {a} {packs} with {b} {things} each, then uses {c}. How many {things} are left?",
    "{a} {packs} hold {b} {things} apiece; {c} of them are lost. How many are there still?",
    "After packing {b} {things} into each of {a} {packs}, {name} gives {c} away. What is left?",
)
PACK_THEN_GAIN = (
    "{name} has {a} {packs} with {b} {things} each and buys {c} more. How many {things} in all?",
    "A shop has {a} {packs} of {b} {things} and {c} single ones. How many {things} is that?",
    "There are {a} {packs}, each with {b} {things}. {name} adds {c}. How many are there now?",
    "{name} fills {a} {packs} with {b} {things} each and finds {c} more. What is the total?",
    "{a} {packs} hold {b} {things} apiece; {c} lie beside them. How many {things} in all?",
    "Besides {a} {packs} of {b} {things}, {name} owns {c} loose ones. How many altogether?",
)
GAIN_THEN_LOSE = (
    "{name} has {a} {things}, buys {b} more and then sells {c}. How many {things} are left?",
    "A shop starts with {a} {things}, receives {b} and sells {c}. How many remain?",
    "There were {a} {things}. {name} added {b}, then took {c} away. How many are there now?",
    "{name} won {a} {things} on one day and {b} on the next, but lost {c}. How many are left?",
    "With {a} {things} at first, {b} arriving and {c} leaving, how many are there at the end?",
    "{c} {things} are gone after {name} put {a} and {b} together. How many are still there?",
)


def add_steps(a: int, b: int) -> str:
    """Columns of a + b from the ones up, each with the carry of the one before."""
    steps, carry = [], 0
    left, right = str(a)[::-1], str(b)[::-1]
    for column in range(max(len(left), len(right))):
        terms = [int(digits[column]) for digits in (left, right) if column < len(digits)]
        if carry:
            terms.append(carry)
        total = sum(terms)
        steps.append(" + ".join(map(str, terms)) + f" = {total}" if terms[1:] else f"{total}")
        carry = total // 10
    return ", ".join(steps)


def subtract_steps(a: int, b: int) -> str:
    """Columns of a - b (a >= b) from the ones up, with what was borrowed already taken off."""
    steps, borrow = [], 0
    right = str(b)[::-1]
    for column, digit in enumerate(str(a)[::-1]):
        top = int(digit) - borrow
        bottom = int(right[column]) if column < len(right) else 0
        borrow = int(top < bottom)
        top += 10 * borrow
        steps.append(f"{top} - {bottom} = {top - bottom}" if column < len(right) else f"{top}")
    return ", ".join(steps)


def multiply_steps(a: int, b: int) -> str:
    """Digits of a * b (a of two digits, b of one or two): columns, then rows, then their sum."""
    if b < 10:
        ones, tens = a % 10 * b, a // 10 * b
        carry = ones // 10
        return (
            f"{a % 10} * {b} = {ones}, {a // 10} * {b} = {tens}, "
            f"{tens} + {carry} = {tens + carry}"
        )
    rows = [f"{a} * {digit}: {multiply_steps(a, digit)}" for digit in (b % 10, b // 10)]
    low, high = a * (b % 10), a * (b - b % 10)
    return "; ".join([*rows, f"{low} + {high}: {add_steps(low, high)}"])


def is_fact(sign: str, a: int, b: int) -> bool:
    """Say whether a sum belongs to the tables that are learned by heart.

    That is: one-digit sums and products, what such a sum leaves when one part is taken off, and
    a one-digit product with a zero behind it.
    """
    if sign == "-":
        return b < 10 and a - b < 10
    low, high = min(a, b), max(a, b)
    return high < 10 or (sign == "*" and low < 10 and high < 100 and high % 10 == 0)


def instance_key(sign: str, a: int, b: int) -> str:
    """The name of one sum; order does not matter where the sum does not mind it."""
    if is_fact(sign, a, b):
        return f"fact|{sign}|{a}|{b}"
    return f"math|{sign}|{a}|{b}" if sign == "-" else f"math|{sign}|{min(a, b)}|{max(a, b)}"


def stated_keys(answer: str) -> tuple[str, ...]:
    """The names of all sums of two terms that a worked answer states on its way."""
    stated = _STATED_SUM.findall(answer)
    return tuple(instance_key(sign, int(a), int(b)) for a, sign, b in stated)


def _finish(steps: str, result: int) -> str:
    return f"{steps}. Answer: {result}"


def _bare(rng: random.Random, sign: str, a: int, b: int, unseen: bool) -> str:
    shown = rng.choice(SIGNS[sign])
    tight = not shown.isalpha() and rng.random() < 0.2
    expression = f"{a}{shown}{b}" if tight else f"{a} {shown} {b}"
    return draw_phrase(rng, ASKS, UNSEEN_COUNT, unseen).format(sum=expression)


def _sum(rng: random.Random, low: int, high: int, unseen: bool) -> tuple[str, str, str]:
    a, b = rng.randint(low, high), rng.randint(low, high)
    answer = _finish(f"{a} + {b}: {add_steps(a, b)}", a + b)
    return _bare(rng, "+", a, b, unseen), answer, instance_key("+", a, b)


def _difference(rng: random.Random, low: int, high: int, unseen: bool) -> tuple[str, str, str]:
    b, a = sorted((rng.randint(low, high), rng.randint(low, high)))
    answer = _finish(f"{a} - {b}: {subtract_steps(a, b)}", a - b)
    return _bare(rng, "-", a, b, unseen), answer, instance_key("-", a, b)


Drawn = tuple[str, str, str]


def _fact(rng: random.Random, unseen: bool) -> Drawn:
    sign = rng.choice("+-*")
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    if sign == "-" and a < b:
        answer = _finish(f"{b} - {a} = {b - a}, so {a} - {b} = {a - b}", a - b)
    else:
        result = a + b if sign == "+" else a - b if sign == "-" else a * b
        answer = _finish(f"{a} {sign} {b} = {result}", result)
    return _bare(rng, sign, a, b, unseen), answer, instance_key(sign, a, b)


def _story(rng: random.Random, unseen: bool) -> Drawn:
    a, b = rng.randint(10, 99), rng.randint(2, 99)
    gain = rng.random() < 0.5
    if not gain:
        b, a = sorted((a, b))
    story = draw_phrase(rng, GAINS if gain else LOSSES, UNSEEN_COUNT, unseen)
    prompt = story.format(name=draw_name(rng), things=rng.choice(THINGS), a=a, b=b)
    if gain:
        return (
            prompt,
            _finish(f"{a} + {b}: {add_steps(a, b)}", a + b),
            instance_key("+", a, b),
        )
    answer = _finish(f"{a} - {b}: {subtract_steps(a, b)}", a - b)
    return prompt, answer, instance_key("-", a, b)


def _product(rng: random.Random, b_low: int, b_high: int, unseen: bool) -> Drawn:
    a, b = rng.randint(11, 99), rng.randint(b_low, b_high)
    answer = _finish(f"{a} * {b}: {multiply_steps(a, b)}", a * b)
    return _bare(rng, "*", a, b, unseen), answer, instance_key("*", a, b)


def _two_steps(rng: random.Random, unseen: bool) -> Drawn:
    how = rng.randrange(3)
    if how == 2:
        a, b = rng.randint(5, 60), rng.randint(5, 60)
        sign, first, first_sign = "-", a + b, "+"
        stories = GAIN_THEN_LOSE
    else:
        a, b = rng.randint(3, 9), rng.randint(2, 9)
        first, first_sign = a * b, "*"
        sign, stories = ("-", PACK_THEN_LOSE) if how == 0 else ("+", PACK_THEN_GAIN)
    c = rng.randint(2, first - 1) if sign == "-" else rng.randint(2, 60)
    result = first - c if sign == "-" else first + c
    story = draw_phrase(rng, stories, 1, unseen)
    prompt = story.format(
        name=draw_name(rng), things=rng.choice(THINGS), packs=rng.choice(PACKS), a=a, b=b, c=c
    )
    before = f"{a} * {b} = {first}" if how != 2 else f"{a} + {b}: {add_steps(a, b)}"
    after = add_steps(first, c) if sign == "+" else subtract_steps(first, c)
    answer = _finish(f"{before}; {first} {sign} {c}: {after}", result)
    return prompt, answer, f"math|two|{first_sign}|{a}|{b}|{sign}|{c}"


def _three_terms(rng: random.Random, unseen: bool) -> Drawn:
    a, b, c = (rng.randint(11, 99) for _ in range(3))
    first = a + b
    prompt = draw_phrase(rng, ASKS, UNSEEN_COUNT, unseen).format(sum=f"{a} + {b} + {c}")
    steps = f"{a} + {b}: {add_steps(a, b)}; {first} + {c}: {add_steps(first, c)}"
    return prompt, _finish(steps, first + c), f"math|three|{a}|{b}|{c}"


_EASY: dict[str, tuple[float, Callable[[random.Random, bool], Drawn]]] = {
    "fact": (0.15, _fact),
    "add_2_digits": (0.3, lambda rng, unseen: _sum(rng, 1, 99, unseen)),
    "subtract_2_digits": (0.3, lambda rng, unseen: _difference(rng, 1, 99, unseen)),
    "story_1_step": (0.25, _story),
}
_HARD: dict[str, tuple[float, Callable[[random.Random, bool], Drawn]]] = {
    "add_3_digits": (0.15, lambda rng, unseen: _sum(rng, 100, 999, unseen)),
    "subtract_3_digits": (0.15, lambda rng, unseen: _difference(rng, 100, 999, unseen)),
    "multiply_2_by_1": (0.2, lambda rng, unseen: _product(rng, 3, 9, unseen)),
    "multiply_2_by_2": (0.12, lambda rng, unseen: _product(rng, 11, 99, unseen)),
    "add_3_terms": (0.13, _three_terms),
    "story_2_steps": (0.25, _two_steps),
}


def draw(rng: random.Random, level: Level, phrasing: Phrasing) -> Example:
    """Draw one exercise of `level`."""
    kinds = _EASY if level == "easy" else _HARD
    weights = [weight for weight, _ in kinds.values()]
    kind = rng.choices(tuple(kinds), weights)[0]
    prompt, answer, key = kinds[kind][1](rng, phrasing == "unseen")
    return Example(TASK, level, kind, phrasing, prompt, answer, (key, *stated_keys(answer)))
