"""What customers write and what the shop's assistant answers, intent by intent.

Of every list of requests the last UNSEEN_COUNT are kept out of training.
"""

from __future__ import annotations

from dataclasses import dataclass

UNSEEN_COUNT = 2


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that customers want: how they say it and the one reply to it."""

    reply: str
    requests: tuple[str, ...]


def _intent(reply: str, requests: str) -> Intent:
    return Intent(reply, tuple(line.strip() for line in requests.strip().splitlines()))


INTENTS: dict[str, Intent] = {
    "order_status": _intent(
        "You can follow order {order} under My orders; we write to you each time it moves.",
        """where is my order {order}?
        can you tell me the status of order {order}?
        I would like to know how far order {order} is
        has order {order} been sent yet?
        I am still waiting for order {order}, any news?
        please check on order {order}
        what is happening with my order number {order}?
        order {order} has not arrived, where is it now?
        could you track the parcel of order {order}?
        any update about {order}, the order I placed?""",
    ),
    "cancel_order": _intent(
        "Order {order} is marked for cancellation; you pay nothing if it has not left yet.",
        """please cancel order {order}
        I want to cancel my order {order}
        can you stop order {order} before it is sent?
        I do not need order {order} any more, cancel it please
        how do I cancel order number {order}?
        cancel {order}, I ordered it by mistake
        I changed my mind about order {order}, please call it off
        kindly withdraw order {order}
        is it possible to cancel the order with number {order}?
        drop order {order}, I bought it elsewhere""",
    ),
    "change_address": _intent(
        "The parcel of order {order} now goes to {city}; please confirm the street by mail.",
        """please send order {order} to {city} instead
        I moved to {city}, can you change the address of order {order}?
        change the delivery address of order {order} to {city}
        order {order} should go to {city}, not to my old address
        can order {order} be delivered in {city}?
        I gave the wrong address for order {order}, it must go to {city}
        my new home is in {city}, please update order {order}
        the address on order {order} is wrong, I live in {city}
        could you redirect {order} to my place in {city}?
        ship order {order} to {city} rather than where I said before""",
    ),
    "return_item": _intent(
        "A return label for the {item} of order {order} is in your mailbox; it is free for 30 days.",
        """I want to return the {item} from order {order}
        how can I send back the {item} of order {order}?
        the {item} in order {order} does not suit me, I want to return it
        please let me return the {item} I got with order {order}
        can I give back the {item} from order {order}?
        I need a return label for the {item} of order {order}
        I do not like the {item} from order {order} and want to send it back
        what must I do to return a {item} bought in order {order}?
        the {item} is not for me, order {order}, how does a return work?
        take back the {item} of order {order}, please""",
    ),
    "refund_status": _intent(
        "The refund for order {order} reaches your account within five working days.",
        """when do I get my money back for order {order}?
        where is the refund for order {order}?
        I sent everything back but have no refund for order {order}
        has the refund of order {order} been paid?
        I am waiting for my money from order {order}
        how long does the refund for order {order} take?
        please check the refund of order {order}
        my refund is missing, the order was {order}
        you still owe me the money for order {order}
        did you already reimburse order {order}?""",
    ),
    "damaged_item": _intent(
        "Sorry about the broken {item}. We send a new one for order {order} at no cost.",
        """the {item} from order {order} arrived broken
        my {item} is damaged, order {order}
        the {item} in order {order} has a crack
        order {order} came today and the {item} does not work
        I opened order {order} and the {item} was in pieces
        the {item} of order {order} is faulty
        there is a big scratch on the {item} from order {order}
        what can I do about a broken {item} in order {order}?
        the {item} that came with order {order} was smashed
        order {order}: the {item} will not switch on and looks dented""",
    ),
    "wrong_item": _intent(
        "Sorry for the mix-up. The right {item} for order {order} leaves today; keep the other one.",
        """I ordered a {item} in order {order} but got something else
        order {order} has the wrong thing, I wanted a {item}
        you sent the wrong article, order {order} was for a {item}
        instead of a {item} there was another product in order {order}
        wrong product in order {order}, it should be a {item}
        I was expecting a {item} in order {order} and received another thing
        order {order} is not what I ordered, I asked for a {item}
        the parcel of order {order} holds the wrong item, not my {item}
        this is not the {item} from order {order} that I paid for
        you mixed up order {order}: no {item} but some other product""",
    ),
    "missing_item": _intent(
        "Sorry, the {item} of order {order} was left out. It follows in its own parcel.",
        """the {item} is missing from order {order}
        order {order} came without the {item}
        there was no {item} in the box of order {order}
        I did not get the {item} that belongs to order {order}
        order {order} is incomplete, the {item} is not there
        everything of order {order} arrived except the {item}
        where is the {item} of order {order}? the rest is here
        you forgot the {item} in order {order}
        my box for order {order} lacks the {item}
        all but the {item} turned up with order {order}""",
    ),
    "delivery_time": _intent(
        "Parcels to {city} take two to four working days.",
        """how long does delivery to {city} take?
        when would a parcel arrive in {city}?
        how many days do you need to deliver to {city}?
        what is the delivery time for {city}?
        if I order today, when is it in {city}?
        how fast do you deliver to {city}?
        tell me how long shipping to {city} takes
        I live in {city}, how soon do parcels come?
        what delay should I expect for a delivery in {city}?
        will it be a long wait for a parcel sent to {city}?""",
    ),
    "shipping_cost": _intent(
        "Shipping to {city} costs 4.90, and nothing for orders above 50.",
        """how much is shipping to {city}?
        what does delivery to {city} cost?
        what do I pay for a parcel to {city}?
        is shipping to {city} free?
        tell me the price of shipping to {city}
        are there delivery fees for {city}?
        what are the shipping costs to {city}?
        how expensive is it to send something to {city}?
        do I have to pay postage for {city}?
        what would you charge to bring a parcel to {city}?""",
    ),
    "invoice_copy": _intent(
        "The invoice of order {order} is in your mailbox again.",
        """I need the invoice for order {order}
        please send me a copy of the invoice of order {order}
        where can I find the bill for order {order}?
        can I get a receipt for order {order}?
        my invoice for order {order} is lost, send it again please
        I need a bill for my taxes, order {order}
        please mail the receipt of order {order}
        could you resend the invoice of order {order}?
        my accountant asks for the bill of order {order}
        no invoice came with order {order}, I would like one""",
    ),
    "double_charge": _intent(
        "If order {order} was charged twice, the second payment goes back within three days.",
        """I was charged twice for order {order}
        you took the money for order {order} two times
        there are two payments for order {order} on my card
        why did I pay twice for order {order}?
        my bank shows a double payment for order {order}
        order {order} was billed twice
        please give back the second payment for order {order}
        I see the price of order {order} twice on my statement
        my card was debited two times, the order is {order}
        the same amount left my account twice because of order {order}""",
    ),
    "reset_password": _intent(
        "A link to set a new password is in your mailbox; it works for one hour.",
        """I forgot my password
        I can not log in any more
        please reset my password
        how do I get a new password?
        my password does not work
        I am locked out of my account
        the shop does not accept my password
        how can I change my login password?
        I lost the password of my account
        signing in fails, it says the password is wrong""",
    ),
    "close_account": _intent(
        "Your account closes in 14 days unless you log in again; open orders still arrive.",
        """please delete my account
        I want to close my account
        how do I remove my account from your shop?
        erase my account and my data
        I do not want an account any more
        can you close my customer account?
        delete everything you have about me
        how can I leave your shop for good and close the account?
        I wish to have my profile removed
        get rid of my account, please""",
    ),
    "warranty": _intent(
        "A {item} has two years of warranty; keep the invoice as proof.",
        """how long is the warranty on a {item}?
        does the {item} have a warranty?
        is my {item} still under warranty?
        what guarantee do you give on the {item}?
        how many years of guarantee has a {item}?
        tell me about the warranty of the {item}
        until when can I use the warranty of my {item}?
        I want to know the warranty terms for a {item}
        for how long do you guarantee a {item}?
        would a repair of my {item} be covered by the warranty?""",
    ),
    "stock": _intent(
        "The page of the {item} shows how many are left; you can leave your mail there.",
        """is the {item} in stock?
        do you have a {item} left?
        when will the {item} be available again?
        is the {item} sold out?
        can I still buy the {item}?
        how many of the {item} do you have?
        I am looking for a {item}, do you have one?
        will you get new stock of the {item}?
        are there any more {item}s in your store?
        could you check if the {item} is available?""",
    ),
    "bulk_discount": _intent(
        "For {quantity} pieces of the {item} we make you an offer; it comes by mail today.",
        """I want to buy {quantity} pieces of the {item}, is there a discount?
        what is the price for {quantity} of the {item}?
        do I get a discount on {quantity} pieces of the {item}?
        we need {quantity} of the {item} for our company, make us an offer
        is it cheaper to order {quantity} pieces of the {item}?
        please quote {quantity} units of the {item}
        how much off do you give for {quantity} of the {item}?
        our school wants {quantity} of the {item} at a good price
        what reduction is there when I take {quantity} of the {item}?
        can you do a special price for {quantity} pieces, product {item}?""",
    ),
    "gift_wrap": _intent(
        "Order {order} comes in gift paper without a price on it.",
        """can you gift wrap order {order}?
        order {order} is a present, please wrap it
        please put gift paper around order {order}
        I want order {order} wrapped as a gift
        is gift wrapping possible for order {order}?
        add gift wrap to order {order}
        order {order} is for a birthday, can you pack it nicely?
        please remove the prices from order {order}, it is a gift
        make order {order} look like a present
        could order {order} get a ribbon, as it is for a friend?""",
    ),
    "store_hours": _intent(
        "Our shop in {city} is open Monday to Saturday from 9 to 19.",
        """when is your shop in {city} open?
        what are the opening hours in {city}?
        until what time is the store in {city} open?
        at what time does the {city} shop open?
        are you open on Saturday in {city}?
        tell me the hours of your store in {city}
        is the shop in {city} open now?
        when do you close in {city}?
        how late can I come to the store in {city}?
        which hours does your branch in {city} keep?""",
    ),
    "reschedule": _intent(
        "Order {order} will be delivered on {day}.",
        """can you deliver order {order} on {day}?
        please bring order {order} on {day}
        I am only at home on {day}, can order {order} come then?
        move the delivery of order {order} to {day}
        I would like to have order {order} on {day}
        nobody is here before {day}, please deliver order {order} then
        change the delivery day of order {order} to {day}
        is it possible to get order {order} on {day}?
        hold order {order} back until {day}
        {day} would be better for the delivery of order {order}""",
    ),
    "human_agent": _intent(
        "A colleague of mine will answer you within one working day.",
        """I want to talk to a human
        can I speak to a real person?
        please connect me with an agent
        let me talk to somebody from your team
        I need to speak with your staff
        is there a person I can talk to?
        put me through to an employee
        I do not want to talk to a machine
        get me someone real, please
        a human being should look at this""",
    ),
    "thanks": _intent(
        "You are welcome. Have a good day!",
        """thank you very much
        thanks for your help
        that was very helpful, thanks
        great, thank you
        thanks a lot
        perfect, thank you so much
        many thanks for the quick answer
        you helped me a lot, thank you
        cheers, that solved it
        I appreciate your help, thanks""",
    ),
    "greeting": _intent(
        "Hello! I can help with orders, with sums and with reading fields out of a text.",
        """hello
        hi there
        good morning
        good evening
        hi
        hello, is anybody there?
        hey, can you help me?
        hello, what can you do?
        hi, who are you?
        good day to you""",
    ),
    "out_of_scope": _intent(
        "I can not help with that. I know about orders, sums and reading fields out of a text.",
        """what is the capital of {city}?
        who is the president of {city}?
        write a poem about a {item}
        what will the weather be in {city} on {day}?
        tell me a joke about a {item}
        translate {item} into French
        who invented the {item}?
        what is the best restaurant in {city}?
        how do I build a {item} from wood?
        which team from {city} won on {day}?""",
    ),
}

# Slots that a request needs but a skeleton does not name are not drawn, so a reply never invents one.
CHATTY_OPENERS = (
    "I have been a customer of yours for years and was always happy.",
    "I tried to call you three times today but nobody answered.",
    "My neighbour told me that you answer quickly.",
    "I hope you are well and that I am in the right place.",
    "It has been a long week and I am a bit tired, sorry if I am short.",
    "I already wrote to you on {day} and got no answer.",
    "My partner usually does this, so I am not sure how it works.",
    "Last year I bought a {other_item} from you and it still works well.",
    "I am writing from my phone on the train to {other_city}.",
    "We are about to leave for {other_city} and I have little time.",
)
DISTRACTORS = (
    "My phone number is {phone}.",
    "Please do not mix it up with {other_order}, that one is fine.",
    "My older order {other_order} arrived without any problem.",
    "The customer number on my card is {other_order}.",
    "My friend {other_name} had the same trouble with order {other_order}.",
    "You can reach me at {phone} after six.",
    "The {other_item} I bought before was fine, by the way.",
    "I will be in {other_city} until {day}.",
    "I wrote to {other_name} from your team about {other_order} already.",
    "My reference from last time was {other_order}.",
)
LINKS = (" Also, ", " And one more thing: ", " Besides, ", " Then there is this: ", " Second, ")
SELF_INTRODUCTIONS = ("My name is {name}.", "This is {name}.", "I am {name}.", "{name} here.")
SIGN_OFFS = (" Best regards, {name}", " Thanks, {name}", " Yours, {name}", " {name}")
OPENERS = ("Hello, ", "Hi, ", "Good morning, ", "Dear team, ", "Hey, ", "Sorry to bother you, ")
CLOSERS = (" Thank you.", " Thanks!", " Please answer soon.", " It is urgent.", " Many thanks.")
