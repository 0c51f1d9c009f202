"""Captions as people might write them: with synonyms, omissions, and words that mean nothing in this world.

A caption always names its thing. It may omit color, motion and place. Without a color or a place, the model may choose any;
without a motion, the thing stands still. So short prompts work too.
"""

from __future__ import annotations

import random

from recipes.cutout.palette import COLOURS
from recipes.cutout.things import THINGS
from recipes.cutout.world import Actor, Scene

THING_WORDS: dict[str, tuple[str, ...]] = {
    "cat": ("cat", "cat", "kitten", "kitty"),
    "dog": ("dog", "dog", "puppy"),
    "rabbit": ("rabbit", "rabbit", "bunny", "hare"),
    "bird": ("bird", "bird", "sparrow"),
    "butterfly": ("butterfly", "butterfly", "moth"),
    "fish": ("fish", "fish", "goldfish"),
    "turtle": ("turtle", "turtle", "tortoise"),
    "car": ("car", "car", "automobile"),
    "train": ("train", "train", "locomotive"),
    "boat": ("sailboat", "boat", "boat", "ship"),
    "plane": ("plane", "airplane", "aeroplane"),
    "rocket": ("rocket", "rocket", "spaceship"),
    "ball": ("ball", "ball", "beachball"),
    "star": ("star",),
    "heart": ("heart",),
    "house": ("house", "house", "home", "hut"),
    "tree": ("tree",),
    "flower": ("flower", "flower", "blossom"),
    "umbrella": ("umbrella", "umbrella", "parasol"),
    "robot": ("robot", "robot", "android"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "crimson", "scarlet"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "yellow": ("yellow", "yellow", "golden"),
    "orange": ("orange",),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rosy"),
    "black": ("black", "black", "dark"),
    "white": ("white", "white", "pale"),
    "brown": ("brown", "brown", "chestnut"),
}
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "still": ("standing still", "standing still", "not moving", "waiting", "standing", "stands still", ""),
    "left": ("moving left", "moving left", "moving to the left", "going left", "running left", "moves to the left"),
    "right": ("moving right", "moving right", "moving to the right", "going right", "running right", "moves to the right"),
    "rising": ("rising", "rising", "moving up", "going up", "flying upward", "climbing", "rises", "ascending", "taking off"),
    "falling": ("falling", "falling", "moving down", "going down", "dropping", "sinking", "falls", "descending", "landing"),
    "bouncing": ("bouncing", "bouncing", "jumping", "hopping", "bouncing up and down", "jumps", "leaping", "dancing"),
    "spinning": ("spinning", "spinning", "rotating", "turning around", "whirling", "spins", "twirling", "turning"),
    "growing": ("growing", "growing", "getting bigger", "coming closer", "getting larger", "grows", "approaching"),
    "shrinking": ("shrinking", "shrinking", "getting smaller", "going away", "shrinks", "leaving"),
    "shaking": ("shaking", "shaking", "trembling", "shivering", "wobbling", "shakes", "vibrating"),
}
# Verbs for moving left or right. A caption without the side fits both.
GOING_WORDS: dict[str, tuple[str, ...]] = {
    "cat": ("walking", "running", "walks", "runs"),
    "dog": ("walking", "running", "walks", "runs"),
    "rabbit": ("running", "walking", "runs"),
    "bird": ("flying", "flies", "gliding"),
    "butterfly": ("flying", "fluttering", "flies"),
    "fish": ("swimming", "swims"),
    "turtle": ("crawling", "swimming", "walking", "crawls"),
    "car": ("driving", "drives", "racing", "speeding"),
    "train": ("driving", "rolling", "drives", "passing by"),
    "boat": ("sailing", "drifting", "sails", "floating"),
    "plane": ("flying", "flies"),
    "rocket": ("flying", "flies", "racing"),
    "ball": ("rolling", "rolls"),
    "robot": ("walking", "walks", "marching"),
}
GOING_OF_ANY = ("sliding", "moving", "going", "floating", "drifting", "travelling", "traveling")
SIDES = {"left": ("left", "left", "to the left", "leftward"), "right": ("right", "right", "to the right", "rightward")}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "grass": (
        "on grass", "on grass", "on the grass", "in a meadow", "on the lawn", "in a green field", "in the park", "in a garden",
        "above the grass", "over a field",
    ),
    "night": (
        "at night", "at night", "in the moonlight", "under the moon", "in the night sky", "under the stars", "in the dark",
        "in space",
    ),
    "sea": (
        "at sea", "at sea", "on the ocean", "on the water", "in the sea", "above the sea", "over the sea", "in the water",
        "on a lake", "on the waves",
    ),
    "desert": (
        "in the desert", "in the desert", "in the sand", "on a sand dune", "above the desert", "over the desert",
        "between sand dunes",
    ),
    "snow": ("in the snow", "in the snow", "in winter", "on snow", "in a snowy field", "above the snow", "over the snow"),
    "city": (
        "in the city", "in the city", "in a street", "in town", "on a street", "down the street", "on the road",
        "above the city", "over the city", "between houses",
    ),
    "room": (
        "in a room", "in a room", "indoors", "inside a house", "at home", "in the living room", "in the kitchen",
        "in the bedroom", "on the floor",
    ),
    "plain": (
        "on a grey background", "on a gray background", "on a plain background", "in front of a grey wall", "in a studio",
    ),
}  # fmt: skip
SUPPORT_WORDS: dict[str, tuple[str, ...]] = {
    "bench": ("on a bench", "on a bench", "on a wooden bench", "on the bench"),
    "box": ("on a box", "on a crate", "on top of a box"),
    "boat": ("on a boat", "in a rowing boat", "in a boat"),
}
SEATED_WORDS = ("sitting", "sitting", "standing", "sitting still", "resting", "sits", "sleeping", "")

# Words that mean nothing in this world. They are in training captions so that the model learns to ignore them.
OPENINGS = (
    "a video of",
    "a clip of",
    "a photo of",
    "a picture of",
    "an animation of",
    "a cinematic shot of",
    "paper cut-out of",
)
MANNERS = (
    "cute", "happy", "little", "big", "beautiful", "small", "funny", "old", "young", "lovely", "colorful", "fast", "bright",
    "shiny", "huge", "tiny", "giant", "fluffy", "cool", "nice", "single", "toy",
)  # fmt: skip
ADVERBS = ("slowly", "quickly", "fast", "gently", "happily", "smoothly")
NOWHERE = ("in the sky", "in the air", "in the distance", "alone", "outside", "through the air")
QUALITIES = (
    "high quality", "detailed", "sharp focus", "paper cut-out style", "best quality", "4k", "realistic", "bright colors",
    "masterpiece", "soft light", "DSLR photography", "smooth motion", "cartoon", "minimal", "highly detailed", "8k",
    "cinematic lighting", "animation", "sharp", "beautiful colors", "wide shot", "close up", "HD", "professional",
    "simple background", "flat design", "illustration",
)  # fmt: skip
SYLLABLES = (
    "ba", "bri", "chen", "con", "dra", "el", "fan", "for", "gi", "gon", "hip", "in", "jun", "ka", "lan", "lo", "ma", "mi",
    "mon", "ne", "o", "pa", "phan", "pon", "qui", "ra", "rest", "san", "scu", "shi", "ta", "ther", "ti", "tor", "u", "ver",
    "vi", "wo", "yel", "zu",
)  # fmt: skip
UNKNOWN_SHARE = 0.08


def caption(scene: Scene, rng: random.Random) -> str:
    """A random caption of a scene."""
    subject = " and ".join(_describe(actor, scene, rng) for actor in scene.actors)
    words = [subject]
    if rng.random() < (0.9 if scene.support is None else 0.5):
        words.append(rng.choice(PLACE_WORDS[scene.place]))
    elif rng.random() < 0.3:
        words.append(rng.choice(NOWHERE))
    text = " ".join(words)
    if rng.random() < 0.08:
        text = f"{rng.choice(OPENINGS)} {text}"
    if rng.random() < 0.12:
        text = ", ".join([text, *rng.sample(QUALITIES, rng.choice((1, 1, 2, 2, 4)))])
    return text


def caption_for_training(scene: Scene, rng: random.Random) -> str:
    """A caption that may contain made-up words, between its words or instead of the thing's name.

    They teach the model to ignore unknown words, and to draw any thing for an unknown name.
    """
    text = caption(scene, rng)
    if rng.random() >= UNKNOWN_SHARE:
        return text
    words = text.split()
    if rng.random() < 0.3:
        things = {word for actor in scene.actors for word in THING_WORDS[actor.thing]}
        return " ".join(_made_up_word(rng) if word in things else word for word in words)
    for _ in range(rng.randint(1, 2)):
        words.insert(rng.randint(0, len(words)), _made_up_word(rng))
    return " ".join(words)


def _made_up_word(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))


def plain_caption(actor: Actor, place: str) -> str:
    """The caption of the first words in the tables; `evaluate` uses it as a prompt."""
    words = [actor.colour, actor.thing, MOTION_WORDS[actor.motion][0], PLACE_WORDS[place][0]]
    return with_article(" ".join(words))


def with_article(text: str) -> str:
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def _describe(actor: Actor, scene: Scene, rng: random.Random) -> str:
    parts = []
    if rng.random() < 0.06:
        parts.append(rng.choice(MANNERS))
    if rng.random() > 0.08:
        parts.append(rng.choice(COLOUR_WORDS[actor.colour]))
    parts.append(rng.choice(THING_WORDS[actor.thing]))
    if scene.support:
        parts += [rng.choice(SEATED_WORDS), rng.choice(SUPPORT_WORDS[scene.support])]
    else:
        parts.append(_describe_motion(actor, rng))
        if parts[-1] and len(scene.actors) == 1 and rng.random() < 0.05:
            parts.append(rng.choice(ADVERBS))
    text = " ".join(part for part in parts if part)
    return with_article(text) if rng.random() > 0.06 else text


def _describe_motion(actor: Actor, rng: random.Random) -> str:
    if actor.motion not in SIDES or rng.random() < 0.5:
        return rng.choice(MOTION_WORDS[actor.motion])
    own = GOING_WORDS.get(actor.thing, ())
    verb = rng.choice(own if own and rng.random() < 0.8 else GOING_OF_ANY)
    return verb if rng.random() < 0.15 else f"{verb} {rng.choice(SIDES[actor.motion])}"


def all_phrases() -> list[str]:
    """Every phrase of the captions, and a few common words. The tokenizer learns its merges from them."""
    tables = (THING_WORDS, COLOUR_WORDS, MOTION_WORDS, GOING_WORDS, SIDES, PLACE_WORDS, SUPPORT_WORDS)
    phrases = [phrase for table in tables for choices in table.values() for phrase in choices]
    return [
        *phrases,
        *SEATED_WORDS,
        *OPENINGS,
        *MANNERS,
        *ADVERBS,
        *NOWHERE,
        *GOING_OF_ANY,
        *QUALITIES,
        *THINGS,
        *COLOURS,
        "a",
        "an",
        "and",
        "the",
        "is",
        "with",
        "of",
    ]


def vocabulary() -> list[str]:
    """All words of the captions, sorted. The card lists them, and a job's `tip` names words that are not among them."""
    return sorted({word.strip(",").lower() for phrase in all_phrases() for word in phrase.split()})
