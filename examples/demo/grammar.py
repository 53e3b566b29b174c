"""The text the demo model learns from: very short stories, and sums in words.

Everything here was written for this project, so the model and its data carry the project's own licence.
A story is a `Plot`: a list of steps, each with a few ways to tell it, and the words that may fill its blanks.
All the words are chosen before the first sentence is written, so a story keeps its hero, its things and its
pronouns to the end. Run this file to read a few: `python grammar.py --stories 10 --sums 5 --seed 1`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LARGEST = 20
"""Sums add two numbers from zero up to this one."""

LARGEST_IN_STORY = 6
"""The counting story adds small numbers only; held-out sums are therefore always taken from beyond it."""

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = ["", "", "twenty", "thirty", "forty"]


def in_words(number: int) -> str:
    """Write a number from 0 to 49 in words."""
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return f"{TENS[tens]}-{UNITS[unit]}" if unit else TENS[tens]


def question(a: int, b: int) -> str:
    """The beginning of a sum, which is also how the model is asked for one."""
    return f"{in_words(a)} plus {in_words(b)} is"


def sum_in_words(a: int, b: int) -> str:
    """A whole sum: "seven plus five is twelve."."""
    return f"{question(a, b)} {in_words(a + b)}."


def all_pairs() -> list[tuple[int, int]]:
    """Every pair of numbers a sum can be made of, 441 in all."""
    return [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]


def held_out_pairs(count: int) -> set[tuple[int, int]]:
    """The same `count` pairs every time, to be kept from training; (a, b) and (b, a) go together.

    Without its mirror image a held-out sum cannot be answered by knowing that order does not matter.
    """
    mirrored = [(a, b) for a, b in all_pairs() if a < b and b > LARGEST_IN_STORY]
    chosen = random.Random(2025).sample(mirrored, count // 2)
    return {pair for a, b in chosen for pair in ((a, b), (b, a))}


# In the steps below the hero is written {he}, {his}, {him} and the friend {she}, {her}, {girl}; the words
# that fill them fit the names. The two never share a pronoun, so "he" and "she" always point at one person.
# {a thing} sets the article, a capital letter ({He}, {A thing}) begins a sentence, and an empty alternative
# leaves the step out. A choice may fill several blanks at once: "place spot" with "park | under a bench".

GIRLS = "Mia Anna Lily Rosa Nora Ella Ida Zoe Clara Maya Lucy Emma".split()
BOYS = "Ben Tom Leo Max Sam Noah Oscar Finn Hugo Jack Adam Theo".split()
SHE_ANIMALS = {"Hazel": "fox", "Clover": "rabbit", "Poppy": "mouse", "Willow": "badger", "Dot": "mole"}
HE_ANIMALS = {"Rusty": "fox", "Bramble": "hedgehog", "Pip": "mouse", "Barley": "puppy", "Bruno": "bear"}


def make_cast() -> list[str]:
    """Every hero with every friend, each with the words that stand for them."""
    heroes_and_friends = [
        (dict.fromkeys(GIRLS, "girl") | SHE_ANIMALS, "she | her | her", BOYS, "he | his | boy"),
        (dict.fromkeys(BOYS, "boy") | HE_ANIMALS, "he | his | him", GIRLS, "she | her | girl"),
    ]
    return [
        f"{hero} | {kind} | {hero_words} | {friend} | {friend_words}"
        for heroes, hero_words, friends, friend_words in heroes_and_friends
        for hero, kind in heroes.items()
        for friend in friends
    ]


Choices = Mapping[str, Sequence[str]]

SHARED_CHOICES: Choices = {
    "hero kind he his him friend she her girl": make_cast(),
    "mood": "cheerful curious gentle brave clever merry patient little kind young lively friendly".split(),
    "home": [
        "by the sea",
        "at the edge of a wood",
        "in a small red house",
        "on a green hill",
        "near a quiet river",
        "at the end of a long lane",
        "beside an old mill",
        "in a village by a lake",
    ],
    "day": [
        "One morning",
        "One day",
        "One afternoon",
        "Early one morning",
        "One fine day",
        "One bright morning",
        "One quiet afternoon",
        "On Sunday",
    ],
    "elder": ["grandmother", "grandfather", "aunt", "uncle"],
    "treat": ["bread and honey", "plum cake", "apple pie", "cheese sandwich", "nut biscuits", "ripe pears"],
}

OPENING = [
    "Once upon a time, there was {a mood} {kind} named {hero}.",
    "Once upon a time, {a mood} {kind} named {hero} lived {home}.",
    "{hero} was {a mood} {kind} who lived {home}.",
    "",
]

AFTERWARDS = ["It was a very good day.", "What a fine day it was!", "", ""]


@dataclass(frozen=True)
class Plot:
    """The steps of a story in order, each with its alternatives, and what may fill their blanks."""

    steps: Sequence[Sequence[str]]
    choices: Choices = field(default_factory=dict)

    def all_choices(self) -> Choices:
        """The plot's own choices with those every plot shares."""
        return {**SHARED_CHOICES, **self.choices}


LOST = Plot(
    choices={
        "thing": [
            "red scarf",
            "little drum",
            "silver bell",
            "blue marble",
            "wooden horse",
            "woolly hat",
            "tin whistle",
            "green ribbon",
            "paper crown",
            "toy duck",
        ],
        "place spot elsewhere": [
            "garden | under a big leaf | in the shed",
            "park | under a bench | beside the fountain",
            "orchard | at the foot of an apple tree | among the baskets",
            "meadow | in the tall grass | beside the gate",
            "market | under the flower stall | next to the well",
            "barn | behind a bale of hay | under the cart",
            "beach | behind a rock | among the shells",
        ],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} took {his} {thing} to the {place}.",
            "{day}, {hero} went to the {place} with {his} {thing}.",
        ],
        [
            "{He} played there for a long time, and then the {thing} was gone.",
            "{He} ran and jumped, and soon the {thing} was gone.",
            "After a while, {he} noticed that the {thing} was gone.",
        ],
        ["{He} was sad, for it was a present from {his} {elder}.", "{He} wanted to cry.", ""],
        [
            "{He} looked {elsewhere}, but it was not there.",
            "First {he} looked {elsewhere}, but found nothing.",
        ],
        [
            'Then {his} friend {friend} came by and said, "Let us look together."',
            '"Do not worry," said {his} friend {friend}, "we will find it together."',
        ],
        ["They looked {spot}, and there it was!", "{friend} looked {spot}, and there was the {thing}!"],
        [
            "{hero} thanked {friend} and held the {thing} tight all the way home.",
            "{hero} laughed, and the two friends played until the sun went down.",
            "From then on, {hero} took good care of the {thing}.",
        ],
    ],
)

TOO_HIGH = Plot(
    choices={
        "thing cause": [
            "red kite | a gust of wind blew it",
            "yellow ball | one big kick sent it",
            "paper plane | the wind carried it",
            "straw hat | a gust of wind blew it",
            "blue balloon | the wind carried it",
        ],
        "place high": [
            "meadow | into the top of an oak tree",
            "farm | onto the roof of the barn",
            "village square | onto the roof of the bakery",
            "garden | into the branches of a pear tree",
            "park | onto the roof of the tea house",
        ],
        "helper ref deed": [
            "kind owl | the owl | flew up",
            "friendly crow | the crow | flew up",
            "white dove | the dove | flew up",
            "tall farmer | the farmer | climbed a ladder",
            "old gardener | the gardener | climbed a ladder",
        ],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} took {his} new {thing} to the {place}.",
            "{day}, {hero} went to the {place} with {his} new {thing}.",
        ],
        ["Suddenly, {cause} {high}.", "All at once, {cause} {high}."],
        [
            "{He} jumped as high as {he} could, but {he} could not reach it.",
            "{He} stood on {his} toes, but it was much too high.",
        ],
        [
            'Luckily, {a helper} saw it all and said, "I can help you."',
            '"Wait, I will help you," said {a helper}.',
        ],
        [
            "{Ref} {deed} and brought down the {thing}.",
            "{Ref} {deed}, and soon {hero} had the {thing} again.",
        ],
        [
            '"Thank you!" said {hero}, and {he} shared {his} {treat} with {ref}.',
            "{hero} thanked {ref} and held on to the {thing} all the way home.",
            "{hero} was so happy that {he} danced around {ref}.",
        ],
        AFTERWARDS,
    ],
)

BROKEN = Plot(
    choices={
        "thing broke mended": [
            "wooden cart | lost a wheel | put the wheel back on",
            "toy boat | lost its mast | made a new mast from a twig",
            "wooden horse | lost its tail | made a new tail from wool",
            "rag doll | lost a button | sewed on a bright new button",
            "little drum | got a hole | covered the hole with a piece of leather",
            "music box | stopped playing | put a drop of oil on the spring",
            "small lantern | lost its handle | made a new handle from wire",
            "picture book | lost its cover | sewed the cover back on",
        ],
        "where": ["on the stairs", "in the kitchen", "in the yard", "under the apple tree", "on the porch"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} was playing with {his} {thing} {where}.",
            "{day}, {hero} sat {where} with {his} {thing}.",
        ],
        ["{He} dropped it, and it {broke}.", "It fell to the ground and {broke}."],
        ['"Oh no!" cried {hero}.', "{He} was very sad.", ""],
        [
            "{He} tried to mend it, but {he} did not know how.",
            "{He} tried to mend it alone, but it was too hard.",
        ],
        [
            "So {he} carried it to {his} {elder}, who could mend almost anything.",
            "So {he} went to {his} {elder}, who had a big box of tools.",
        ],
        ["{His} {elder} {mended}.", "They sat down together, and {his} {elder} {mended}."],
        [
            "Soon the {thing} was as good as new, and {hero} jumped for joy.",
            '"Now it is even better than before," said {hero}.',
            "{hero} gave {his} {elder} a big hug.",
        ],
    ],
)

TOO_HEAVY = Plot(
    choices={
        "load place evening": [
            "big pumpkin | field | cooked a pot of pumpkin soup",
            "basket of apples | orchard | baked an apple pie",
            "sack of flour | mill | baked a loaf of bread",
            "sack of potatoes | field | cooked a pot of potato soup",
            "bundle of firewood | wood | sat beside a warm fire",
            "crate of pears | orchard | made a pot of pear jam",
            "can of milk | farm | drank warm milk with honey",
        ],
        "cart": ["little cart", "wheelbarrow", "old wagon", "wooden cart"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} wanted to bring {a load} home from the {place}.",
            "{day}, {hero} got {a load} at the {place} and wanted to take it home.",
        ],
        [
            "But the {load} was so heavy that {he} could not lift it.",
            "But the {load} was much too heavy for {him}.",
        ],
        [
            "{He} pushed and {he} pulled, but it did not move.",
            "{He} tried three times, and then {he} sat down.",
            "",
        ],
        [
            "Just then, {his} friend {friend} came along with {a cart}.",
            "Then {he} saw {his} friend {friend} on the road with {a cart}.",
        ],
        ['"We can do it together," said {friend}.', '"Let me help you," said {friend} with a smile.'],
        [
            "They put the {load} into the {cart} and brought it home.",
            "With the {cart} it was easy to bring it home.",
        ],
        ["That evening, the two friends {evening}.", "Then {hero} and {friend} {evening}."],
    ],
)

RAIN = Plot(
    choices={
        "place aim": [
            "meadow | pick flowers",
            "wood | look for mushrooms",
            "beach | look for shells",
            "hill | pick berries",
            "orchard | pick cherries",
        ],
        "shelter": ["old hut", "little barn", "hollow tree", "small cave"],
        "animal ref": [
            "grey goose | the goose",
            "white cat | the cat",
            "brown hen | the hen",
            "shy deer | the deer",
            "fat toad | the toad",
        ],
        "pastime": ["told each other stories", "sang songs", "played guessing games"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} went to the {place} to {aim}.",
            "{day}, {hero} walked to the {place}, for {he} wanted to {aim}.",
        ],
        [
            "But soon the sky turned dark, and it began to rain.",
            "But then grey clouds came, and big drops began to fall.",
        ],
        [
            "{He} had no umbrella, and {his} ears were soon wet.",
            "{He} had no umbrella and did not know where to go.",
        ],
        [
            "{He} ran to {a shelter}, and there sat {a animal}.",
            "At last {he} found {a shelter}, and {a animal} looked out of it.",
        ],
        ['"Come in, there is room for two," said {ref}.', '"Come in and get dry," said {ref}.'],
        ["They {pastime} until the rain stopped."],
        [
            "When the sun came out, they went to {aim} together.",
            "Then a rainbow stood over the {place}, and {hero} had a new friend.",
            "When {hero} went home, {he} had a new friend.",
        ],
    ],
)

LOST_ANIMAL = Plot(
    choices={
        "baby home_of_baby": [
            "duckling | pond",
            "chick | hen house",
            "kitten | farm",
            "gosling | river",
            "piglet | farm",
            "calf | cow shed",
            "lamb | sheep field",
            "foal | stable",
        ],
        "cover": ["behind a bush", "under a hedge", "behind the gate", "beside the path", "near an old wall"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} heard a small cry {cover}.",
            "{day}, {hero} went for a walk and heard a small cry {cover}.",
        ],
        ["It was {a baby} that had lost its way.", "There sat {a baby}, all alone."],
        ['"I cannot find my mother," said the {baby}.', '"I want to go home," said the {baby}.'],
        ["{hero} gave it some water and wrapped it in {his} scarf.", '"I will help you," said {hero}.'],
        [
            "Together they walked all the way to the {home_of_baby}.",
            "{He} showed it the long way back to the {home_of_baby}.",
        ],
        [
            "There its mother was waiting, and she thanked {hero} again and again.",
            "The mother of the {baby} was so glad that she could hardly speak.",
        ],
        [
            "The next day, the {baby} came to visit {hero}.",
            "After that, {hero} visited the {baby} every week.",
            "{hero} waved and went home with a warm heart.",
        ],
    ],
)

NEW_FRIEND = Plot(
    choices={
        "place": ["playground", "village green", "bakery", "school", "bridge", "fountain"],
        "toy": ["skipping rope", "red ball", "bag of marbles", "box of chalk", "wooden hoop", "spinning top"],
        "until": ["it was time for supper", "the sun went down", "the stars came out"],
    },
    steps=[
        OPENING,
        ["{day}, {hero} saw a new {girl} near the {place}.", "{day}, a new {girl} stood near the {place}."],
        [
            "{She} had {a toy}, but nobody to play with.",
            "{She} sat alone with {a toy} and looked a little sad.",
        ],
        [
            "{hero} wanted to say hello, but {he} did not know how.",
            "{hero} wanted to say hello, but no words came out of {his} mouth.",
        ],
        [
            'So {he} took a deep breath and asked, "May I play with you?"',
            'But then {he} smiled and asked, "Shall we play together?"',
        ],
        [
            '"Yes, please," said the {girl}, "my name is {friend}."',
            '"I would love to," said {friend}, for that was {her} name.',
        ],
        ["They played with the {toy} until {until}."],
        [
            "From that day on, {hero} and {friend} were best friends.",
            "Now {hero} and {friend} meet every day.",
        ],
    ],
)

BAKING = Plot(
    choices={
        "cake": ["honey cake", "apple pie", "plum tart", "nut cake", "carrot cake", "cherry pie"],
        "missing": ["flour", "butter", "sugar", "milk", "salt"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} wanted to bake {a cake} for {his} {elder}.",
            "{day}, {hero} began to make {a cake} for {his} {elder}.",
        ],
        ["But there was no {missing} in the kitchen.", "But the {missing} was all gone."],
        [
            '"What shall I do now?" thought {hero}.',
            "{He} looked in every cupboard and found only an old spoon.",
            "",
        ],
        [
            "So {he} ran to {friend}, who lived next door.",
            "So {he} went next door and asked {friend} for help.",
        ],
        [
            '"I have plenty of {missing}," said {friend}, and {she} gave {him} some.',
            "{friend} had plenty of {missing} and was glad to share it.",
        ],
        [
            "Soon the whole house smelled of {cake}.",
            "They stirred and sang, and then the {cake} went into the oven.",
        ],
        [
            "{His} {elder} said that it was the best {cake} in the world.",
            "{His} {elder} was so pleased that everybody got a big slice.",
        ],
    ],
)

NOISE = Plot(
    choices={
        "sound where cause": [
            "soft tapping | at the window | a branch in the wind",
            "scratching sound | at the door | the cat, who wanted to come in",
            "slow dripping | in the kitchen | the old tap",
            "strange rattling | on the roof | a pine cone in the wind",
            "long squeak | in the hall | the old door in the wind",
            "quiet flutter | behind the curtain | a moth with soft white wings",
        ],
        "toy": ["teddy bear", "rag doll", "wooden sword", "small lamp"],
    },
    steps=[
        OPENING,
        [
            "One night, {hero} heard {a sound} {where}.",
            "One night, {hero} could not sleep, for there was {a sound} {where}.",
        ],
        [
            "{He} pulled the blanket up to {his} nose.",
            "{His} heart beat fast, and {he} hid under the blanket.",
        ],
        [
            '"Who is there?" {he} whispered, but nobody answered.',
            '"Hello?" said {hero}, but nobody answered.',
        ],
        [
            "Then {he} took {his} {toy} and went to look.",
            "At last {he} got up, took {his} {toy} and went to look.",
        ],
        ["It was only {cause}!", "And it was only {cause}!"],
        ["{hero} laughed, and all {his} fear was gone.", '"So it was you," said {hero} and laughed.'],
        ["Then {he} went back to bed and slept until morning.", "Soon {he} was fast asleep again."],
    ],
)

TAKING_TURNS = Plot(
    choices={
        "thing place": [
            "swing | park",
            "sledge | hill",
            "hammock | garden",
            "little boat | lake",
            "pony | farm",
            "red scooter | playground",
        ],
        "count": ["ten", "twenty"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} and {his} friend {friend} went to the {place} and found {a thing}.",
            "{day}, {hero} went to the {place} with {his} friend {friend}, and there was {a thing}.",
        ],
        ["Both of them wanted to be first.", "There was only one {thing}, and both wanted it."],
        [
            '"Me first," said {hero}, and "No, me first," said {friend}.',
            "They shouted until they were both cross.",
        ],
        ["Then {hero} had a good idea.", "After a while, {hero} was sorry."],
        [
            '"You go first, and when we have counted to {count}, we change," {he} said.',
            '"Let us take turns and count to {count} each time," {he} said.',
        ],
        ["{friend} liked that, and so they took turns.", "{friend} nodded, and they began to count aloud."],
        ["It was twice as much fun with two.", "In the end they laughed so much that they forgot to count."],
    ],
)

SEED = Plot(
    choices={
        "seed plant": [
            "sunflower seed | a sunflower as tall as the door",
            "bean | a long vine with a hundred beans",
            "tulip bulb | a beautiful red tulip",
            "pumpkin seed | a round orange pumpkin",
            "poppy seed | a bright red poppy",
            "pea | a green pod full of peas",
        ],
        "spot": [
            "by the gate",
            "next to the well",
            "under the kitchen window",
            "beside the path",
            "behind the house",
        ],
        "wait": ["two days", "three days", "four days", "five days", "a whole week"],
    },
    steps=[
        OPENING,
        ["{day}, {hero} planted {a seed} {spot}.", "{day}, {hero} found {a seed} and planted it {spot}."],
        [
            "{He} waited for {wait}, but nothing happened.",
            "{He} sat beside it for {wait}, but nothing came up.",
        ],
        ['"Maybe it is asleep," thought {hero}.', ""],
        [
            '"It needs water and a little time," said {his} {elder}.',
            '"Give it some water every day," said {his} {elder}.',
        ],
        [
            "So {he} watered it every morning and sang it a song.",
            "So {he} watered it every evening and wished it good night.",
        ],
        [
            "Then, one warm day, a tiny leaf came up, and soon there was {plant}.",
            "A green leaf came up at last, and by the end of summer there was {plant}.",
        ],
        ["{hero} was very proud and showed it to {his} friend {friend}.", "{hero} had never been so proud."],
    ],
)

DRIFTING_BOAT = Plot(
    choices={
        "boat": ["paper boat", "wooden ship", "little raft", "toy boat", "blue boat"],
        "water": ["pond", "lake", "river", "mill pond"],
        "bird ref": ["white swan | the swan", "brown duck | the duck", "grey goose | the goose"],
    },
    steps=[
        OPENING,
        [
            "{day}, {hero} sailed {his} {boat} on the {water}.",
            "{day}, {hero} went to the {water} to sail {his} {boat}.",
        ],
        [
            "But the wind pushed it far away from the bank.",
            "But it drifted out into the middle of the {water}.",
        ],
        [
            "{He} reached for it with a long stick, but the stick was too short.",
            "The water was too deep and too cold.",
        ],
        [
            'Then {a bird} swam by and asked, "Is that your {boat}?"',
            'Then {a bird} came and asked, "Have you lost your {boat}?"',
        ],
        ['"Yes, and I cannot reach it," said {hero}.', '"Yes, but I cannot swim so far," said {hero}.'],
        [
            "{Ref} pushed the {boat} back with its beak.",
            "{Ref} swam out and brought the {boat} back to {him}.",
        ],
        [
            "{hero} thanked {ref} and tied a long string to the {boat}.",
            "To say thank you, {hero} shared {his} {treat} with {ref}.",
        ],
    ],
)

COUNTING = Plot(
    choices={
        "place things": [
            "beach | shells",
            "wood | pine cones",
            "garden | strawberries",
            "orchard | apples",
            "hen house | eggs",
            "park | chestnuts",
        ],
        "n m total": [
            f"{in_words(n)} | {in_words(m)} | {in_words(n + m)}"
            for n in range(2, LARGEST_IN_STORY + 1)
            for m in range(2, LARGEST_IN_STORY + 1)
        ],
    },
    steps=[
        OPENING,
        ["{day}, {hero} went to the {place} and found {n} {things}."],
        ["{He} put them into {his} basket.", "{He} was happy and put them into {his} basket."],
        [
            "Then {his} friend {friend} came and gave {him} {m} more.",
            "Then {he} met {friend}, who gave {him} {m} more.",
        ],
        ['"How many are there now?" asked {friend}.', '"That is a lot of {things}," said {friend}.'],
        [
            "{hero} thought hard, for {n} plus {m} is {total}.",
            '{hero} thought for a while and said, "{N} plus {m} is {total}."',
        ],
        [
            "There were {total} {things} in the basket, and they shared them.",
            "So they had {total} {things} and a good time.",
        ],
        AFTERWARDS,
    ],
)

SNOWMAN = Plot(
    choices={
        "place": ["garden", "yard", "park", "field"],
        "part found": [
            "nose | a long carrot",
            "hat | an old pot",
            "scarf | a striped towel",
            "broom | a bundle of twigs",
            "mouth | a row of small stones",
        ],
    },
    steps=[
        OPENING,
        [
            "One winter day, {hero} built a snowman in the {place}.",
            "One snowy morning, {hero} built a big snowman in the {place}.",
        ],
        ["But the snowman had no {part}.", "It was almost ready, but it had no {part}."],
        [
            "{He} looked everywhere, but {he} found nothing that would do.",
            "{He} thought and thought, and {his} nose grew cold.",
            "",
        ],
        [
            "Then {his} friend {friend} ran home and came back with {found}.",
            "Then {friend} came by and brought {found}.",
        ],
        ['"This will be a fine {part}," said {friend}.', '"Look, that is just right," said {friend}.'],
        [
            "They put it in its place, and the snowman seemed to smile.",
            "Now it was the best snowman in the whole village.",
        ],
        [
            "Then {hero} and {friend} went inside and drank hot chocolate.",
            "That night, the moon shone on the snowman, and {hero} waved to it.",
        ],
    ],
)

PLOTS = [
    LOST,
    TOO_HIGH,
    BROKEN,
    TOO_HEAVY,
    RAIN,
    LOST_ANIMAL,
    NEW_FRIEND,
    BAKING,
    NOISE,
    TAKING_TURNS,
    SEED,
    DRIFTING_BOAT,
    COUNTING,
    SNOWMAN,
]


class Words(dict[str, str]):
    """The words chosen for one story; articles and capital letters are made when a step asks for them."""

    def __missing__(self, blank: str) -> str:
        if blank[0].isupper():
            lower = self[blank[0].lower() + blank[1:]]
            return lower[0].upper() + lower[1:]
        article, _, name = blank.partition(" ")
        if article != "a" or not name:
            raise KeyError(blank)
        return f"an {self[name]}" if self[name][0] in "aeiou" else f"a {self[name]}"


def choose_words(choices: Choices, rng: random.Random) -> Words:
    """Fill every blank a plot may use, once for the whole story."""
    words = Words()
    for blanks, options in choices.items():
        words.update(zip(blanks.split(), rng.choice(options).split(" | "), strict=True))
    return words


def story(rng: random.Random) -> str:
    """Write one story."""
    plot = rng.choice(PLOTS)
    words = choose_words(plot.all_choices(), rng)
    sentences = [rng.choice(step).format_map(words) for step in plot.steps]
    return " ".join(sentence for sentence in sentences if sentence)


def sums(rng: random.Random, pairs: Sequence[tuple[int, int]]) -> str:
    """Write one sum, now and then followed by another.

    One more always has the same small chance, so that stopping is the likeliest thing after any sum.
    """
    text = sum_in_words(*rng.choice(pairs))
    while rng.random() < 0.15:
        text += " " + sum_in_words(*rng.choice(pairs))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Print stories and sums of the grammar.")
    parser.add_argument("--stories", type=int, default=5)
    parser.add_argument("--sums", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.stories):
        print(story(rng), end="\n\n")
    for _ in range(args.sums):
        print(sums(rng, all_pairs()))


if __name__ == "__main__":
    main()
