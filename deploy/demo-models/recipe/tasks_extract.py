"""Reading fields out of text into JSON: flat and tidy, or nested, noisy and with gaps."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from recipe.examples import Example, Level, Phrasing
from recipe.words import (
    CITIES,
    DAYS,
    ITEMS,
    draw_digits,
    draw_name,
    draw_phone,
    draw_phrase,
)

TASK = "extract"
UNSEEN_COUNT = 2
CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF")

ASKS = (
    "Extract {fields} as JSON: {text}",
    "Return JSON with {fields} from this text: {text}",
    "Give me {fields} as JSON. Text: {text}",
    "Read the text and fill in {fields} as JSON: {text}",
    "Text: {text} Return {fields} as JSON.",
    "{text} Extract {fields} as JSON.",
    "Find {fields} in the following text and answer in JSON: {text}",
    "From the text below, produce JSON with {fields}. {text}",
    "JSON with {fields}, please: {text}",
)
EASY_TEXTS: dict[str, tuple[str, ...]] = {
    "order": (
        "{name} from {city} orders {quantity} {item}s.",
        "Please send {quantity} {item}s to {name} in {city}.",
        "{quantity} {item}s for {name}, {city}.",
        "Order by {name}: {item}, {quantity} pieces, to {city}.",
        "A customer named {name} in {city} wants {quantity} {item}s.",
        "{city} office: {name} needs {quantity} {item}s.",
        "We ship {quantity} {item}s to {city} for {name}.",
        "New order of {quantity} {item}s, buyer {name}, city {city}.",
        "The {item} order of {name} from {city} counts {quantity} pieces.",
    ),
    "meeting": (
        "{name} meets us on {day} at {time} in room {room}.",
        "Meeting with {name}, {day} {time}, room {room}.",
        "On {day} at {time} {name} will be in room {room}.",
        "Room {room} is booked by {name} for {day} at {time}.",
        "Please join {name} in room {room} on {day}, {time}.",
        "{day}, {time}: talk by {name}, room {room}.",
        "{name} invites you to room {room} on {day} at {time}.",
        "At {time} on {day} we see {name}; the room is {room}.",
        "The {day} session of {name} begins at {time} in room {room}.",
    ),
    "contact": (
        "{name} lives in {city}, phone {phone}.",
        "Call {name} in {city} at {phone}.",
        "Contact: {name}, {city}, {phone}.",
        "The number of {name} from {city} is {phone}.",
        "{phone} is the phone of {name}, who works in {city}.",
        "In {city} you reach {name} under {phone}.",
        "New contact {name}, tel. {phone}, based in {city}.",
        "For {city} ask {name}, {phone}.",
        "{name} ({city}) can be called at {phone}.",
    ),
}
EASY_FIELDS = {
    "order": ("name", "item", "quantity", "city"),
    "meeting": ("name", "day", "time", "room"),
    "contact": ("name", "city", "phone"),
}
NOISE = (
    "The old number {number} is no longer used.",
    "{other} was not involved.",
    "Last time the parcel went to {other_city} by mistake.",
    "We talked about {other_item}s too, but nobody wants them.",
    "Our own line is {phone}.",
    "The weather in {other_city} was bad on {other_day}.",
    "Ticket {number} was closed by {other}.",
    "Please answer by {other_day}.",
    "It took {number} minutes to find this out.",
    "{other} sends greetings from {other_city}.",
    "Do not confuse it with number {number}.",
)


def _draw_time(rng: random.Random) -> str:
    return f"{rng.randint(8, 18)}:{rng.choice(('00', '15', '30', '45'))}"


def _noise(rng: random.Random, count: int) -> list[str]:
    return [
        text.format(
            number=draw_digits(rng, rng.randint(2, 5)),
            other=draw_name(rng),
            other_city=rng.choice(CITIES),
            other_item=rng.choice(ITEMS),
            other_day=rng.choice(DAYS),
            phone=draw_phone(rng),
        )
        for text in rng.sample(NOISE, count)
    ]


def _ask(rng: random.Random, fields: Sequence[str], text: str, unseen: bool) -> str:
    listed = ", ".join(fields[:-1]) + f" and {fields[-1]}"
    return draw_phrase(rng, ASKS, UNSEEN_COUNT, unseen).format(fields=listed, text=text)


def _draw_easy(rng: random.Random, phrasing: Phrasing) -> Example:
    kind = rng.choice(tuple(EASY_TEXTS))
    values: dict[str, str | int] = {
        "name": draw_name(rng),
        "city": rng.choice(CITIES),
        "item": rng.choice(ITEMS),
        "quantity": rng.randint(2, 99),
        "day": rng.choice(DAYS),
        "time": _draw_time(rng),
        "room": rng.choice("ABCD") + draw_digits(rng, 2),
        "phone": draw_phone(rng),
    }
    unseen = phrasing == "unseen"
    text = draw_phrase(rng, EASY_TEXTS[kind], UNSEEN_COUNT, unseen).format(**values)
    fields = EASY_FIELDS[kind]
    answer = json.dumps({field: values[field] for field in fields})
    prompt = _ask(rng, fields, text, unseen)
    return Example(TASK, "easy", kind, phrasing, prompt, answer, (f"extract|{answer}",))


BUYER = (
    "{name} is the buyer.",
    "The customer is called {name}.",
    "This order comes from {name}.",
    "We got an order from {name}.",
    "{name} placed an order.",
    "A message from {name} came in this morning.",
    "It was {name} who asked for it.",
)
PHONE = (
    "The phone is {phone}.",
    "Call back at {phone}.",
    "Tel. {phone}.",
    "Customer phone: {phone}.",
    "For questions ring the buyer at {phone}.",
    "The buyer picks up at {phone}.",
)
SHIP = (
    "Everything goes to {city}.",
    "Ship it to {city}.",
    "The destination is {city}.",
    "Delivery to {city}, not to {old_city}.",
    "It was to go to {old_city}, but now it is {city}.",
    "The goods travel to {city}.",
    "Correction: {city} instead of {old_city}.",
)
DUE = (
    "It must be there on {day}.",
    "Delivery day is {day}.",
    "We promised {day}.",
    "Please deliver on {day}, not on {old_day}.",
    "Moved from {old_day} to {day}.",
    "They count on {day}.",
    "Not {old_day}: it has to be {day}.",
)
LINE = (
    "{quantity} {item}s at {price} each",
    "{quantity} {item}s for {price} apiece",
    "{quantity} pieces of {item} ({price} each)",
    "{item}: {quantity} at {price}",
)
LISTS = (
    "Wanted: {lines}.",
    "The list: {lines}.",
    "They need {lines}.",
    "Order lines: {lines}.",
)


def _order(rng: random.Random, unseen: bool) -> tuple[list[str], dict[str, object]]:
    """A nested order: the customer, one or two lines, where to and when."""
    name, phone = draw_name(rng), draw_phone(rng)
    city, old_city = rng.sample(CITIES, 2)
    day, old_day = rng.sample(DAYS, 2)
    lines = [
        {"item": item, "quantity": rng.randint(2, 99), "price": rng.randint(3, 400)}
        for item in rng.sample(ITEMS, rng.randint(1, 2))
    ]
    has_phone, has_city, has_day = (rng.random() < 0.7 for _ in range(3))
    listed = " and ".join(rng.choice(LINE).format(**line) for line in lines)
    sentences = [draw_phrase(rng, BUYER, 1, unseen), rng.choice(LISTS)]
    sentences += [draw_phrase(rng, PHONE, 1, unseen)] * has_phone
    sentences += [draw_phrase(rng, SHIP, UNSEEN_COUNT, unseen)] * has_city
    sentences += [draw_phrase(rng, DUE, UNSEEN_COUNT, unseen)] * has_day
    slots = {"name": name, "phone": phone, "city": city, "old_city": old_city, "day": day}
    slots |= {"old_day": old_day, "lines": listed}
    record: dict[str, object] = {
        "customer": {"name": name, "phone": phone if has_phone else None},
        "items": lines,
        "city": city if has_city else None,
        "day": day if has_day else None,
    }
    return [sentence.format(**slots) for sentence in sentences], record


HOST = (
    "{host} organises it.",
    "The host is {host}.",
    "It is {host} who called the meeting.",
    "{host} set up a meeting.",
    "Invited by {host}.",
    "Ask {host}, who leads the meeting.",
)
GUESTS = (
    "{guests} will come.",
    "Taking part: {guests}.",
    "Guests are {guests}.",
    "We expect {guests}.",
    "Present: {guests}.",
    "Seats are kept for {guests}.",
)
WHEN = (
    "It takes place on {day} at {time}.",
    "The date is {day}, {time}.",
    "Moved from {old_day} {old_time} to {day} {time}.",
    "Not on {old_day} at {old_time} but on {day} at {time}.",
    "We start at {time} on {day}.",
    "New date: {day}, {time} (was {old_day}, {old_time}).",
    "Instead of {old_time} on {old_day}, please come at {time} on {day}.",
)
ROOM = (
    "The room is {room}.",
    "Come to room {room}.",
    "We sit in room {room}, as {old_room} is taken.",
    "Room {old_room} was changed to {room}.",
    "You find us in room {room}.",
    "Because of repairs it is {room} and not {old_room}.",
)


def _meeting(rng: random.Random, unseen: bool) -> tuple[list[str], dict[str, object]]:
    """A meeting with its host, guests, date and room, some of them corrected or missing."""
    host, *guests = (draw_name(rng) for _ in range(rng.randint(2, 3)))
    day, old_day = rng.sample(DAYS, 2)
    time, old_time = _draw_time(rng), _draw_time(rng)
    room, old_room = (rng.choice("ABCD") + draw_digits(rng, 2) for _ in range(2))
    has_host, has_when, has_room = (rng.random() < 0.75 for _ in range(3))
    sentences = [draw_phrase(rng, GUESTS, 1, unseen)]
    sentences += [draw_phrase(rng, HOST, 1, unseen)] * has_host
    sentences += [draw_phrase(rng, WHEN, UNSEEN_COUNT, unseen)] * has_when
    sentences += [draw_phrase(rng, ROOM, 1, unseen)] * has_room
    slots = {"host": host, "guests": ", ".join(guests), "day": day, "old_day": old_day}
    slots |= {"time": time, "old_time": old_time, "room": room, "old_room": old_room}
    record: dict[str, object] = {
        "host": host if has_host else None,
        "guests": guests,
        "when": {"day": day, "time": time} if has_when else None,
        "room": room if has_room else None,
    }
    return [sentence.format(**slots) for sentence in sentences], record


BILL = (
    "Invoice {number} is attached.",
    "The invoice number is {number}.",
    "This concerns invoice {number}.",
    "Please find invoice {number}, which replaces {old_number}.",
    "Instead of invoice {old_number} use {number}.",
    "Our books list it as invoice {number}.",
)
TOTAL = (
    "The total is {total} {currency}.",
    "You owe {total} {currency}.",
    "It comes to {total} {currency}, of which {part} is tax.",
    "Amount: {total} {currency} after a discount of {part}.",
    "All in all {total} {currency}.",
    "The sum to pay stands at {total} {currency}, tax of {part} included.",
)
PAYER = (
    "It goes to {name} in {city}.",
    "Billed to {name}, {city}.",
    "{name} from {city} pays.",
    "The payer is {name} ({city}).",
    "Send it to {name} in {city}.",
    "In {city} it is {name} who settles it.",
)


def _invoice(rng: random.Random, unseen: bool) -> tuple[list[str], dict[str, object]]:
    """An invoice with its number, amount, payer and due day, some of them missing."""
    number, old_number = (f"R{draw_digits(rng, 4)}" for _ in range(2))
    total, part = rng.randint(100, 9999), rng.randint(5, 99)
    currency, name, city = rng.choice(CURRENCIES), draw_name(rng), rng.choice(CITIES)
    day, old_day = rng.sample(DAYS, 2)
    has_number, has_total, has_day = (rng.random() < 0.75 for _ in range(3))
    sentences = [draw_phrase(rng, PAYER, 1, unseen)]
    sentences += [draw_phrase(rng, BILL, 1, unseen)] * has_number
    sentences += [draw_phrase(rng, TOTAL, 1, unseen)] * has_total
    sentences += [draw_phrase(rng, DUE, UNSEEN_COUNT, unseen)] * has_day
    slots: dict[str, object] = {"number": number, "old_number": old_number, "total": total}
    slots |= {"part": part, "currency": currency, "name": name, "city": city}
    slots |= {"day": day, "old_day": old_day}
    record: dict[str, object] = {
        "number": number if has_number else None,
        "payer": {"name": name, "city": city},
        "amount": {"total": total, "currency": currency} if has_total else None,
        "day": day if has_day else None,
    }
    return [sentence.format(**slots) for sentence in sentences], record


def _draw_hard(rng: random.Random, phrasing: Phrasing) -> Example:
    kind, build = rng.choice((("order", _order), ("meeting", _meeting), ("invoice", _invoice)))
    unseen = phrasing == "unseen"
    sentences, record = build(rng, unseen)
    sentences += _noise(rng, rng.randint(1, 2))
    rng.shuffle(sentences)
    text = " ".join(sentences)
    answer = json.dumps(record)
    prompt = _ask(rng, tuple(record), text, unseen)
    return Example(TASK, "hard", kind, phrasing, prompt, answer, (f"extract|{answer}",))


def draw(rng: random.Random, level: Level, phrasing: Phrasing) -> Example:
    """Draw one text with the record to be read out of it."""
    return _draw_easy(rng, phrasing) if level == "easy" else _draw_hard(rng, phrasing)
