"""What people might call a scene: a grammar of captions with synonyms, omissions and words that mean nothing here.

A caption names its thing always; colour, motion and place each may be left out, and what is left out is drawn at random (a
motion that is left out means standing still). So a prompt that says less than the world could show still gets a clip.
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
    "still": ("standing still", "standing still", "not moving", "waiting", "standing", ""),
    "left": ("moving left", "moving left", "moving to the left", "going left", "walking to the left", "running left"),
    "right": ("moving right", "moving right", "moving to the right", "going right", "walking to the right", "running right"),
    "rising": ("rising", "rising", "moving up", "going up", "flying upward", "climbing"),
    "falling": ("falling", "falling", "moving down", "going down", "dropping", "sinking"),
    "bouncing": ("bouncing", "bouncing", "jumping", "hopping", "bouncing up and down"),
    "spinning": ("spinning", "spinning", "rotating", "turning around", "whirling"),
    "growing": ("growing", "growing", "getting bigger", "coming closer", "getting larger"),
    "shrinking": ("shrinking", "shrinking", "getting smaller", "going away"),
    "shaking": ("shaking", "shaking", "trembling", "shivering", "wobbling"),
}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "grass": ("on grass", "on grass", "in a meadow", "on the lawn", "in a green field"),
    "night": ("at night", "at night", "in the moonlight", "under the moon"),
    "sea": ("at sea", "at sea", "on the ocean", "on the water"),
    "desert": ("in the desert", "in the desert", "in the sand", "on a sand dune"),
    "snow": ("in the snow", "in the snow", "in winter"),
    "city": ("in the city", "in the city", "in a street", "in town"),
    "room": ("in a room", "in a room", "indoors", "inside a house"),
    "plain": ("on a grey background", "on a gray background", "on a plain background", "in front of a grey wall"),
}
SUPPORT_WORDS: dict[str, tuple[str, ...]] = {
    "bench": ("on a bench", "on a bench", "on a wooden bench"),
    "box": ("on a box", "on a crate"),
    "boat": ("on a boat", "in a rowing boat"),
}
SEATED_WORDS = ("sitting", "sitting", "standing", "sitting still", "resting", "")

# Words that say nothing about this world. The model hears them in training, so that they change nothing later.
OPENINGS = (
    "a video of",
    "a clip of",
    "a photo of",
    "a picture of",
    "an animation of",
    "a cinematic shot of",
    "paper cut-out of",
)
MANNERS = ("cute", "happy", "little", "big", "beautiful", "small", "funny", "old", "young", "lovely", "colorful", "fast")
QUALITIES = (
    "high quality", "detailed", "sharp focus", "paper cut-out style", "best quality", "4k", "realistic", "bright colors",
    "masterpiece", "soft light", "DSLR photography", "smooth motion", "cartoon", "minimal",
)  # fmt: skip


def caption(scene: Scene, rng: random.Random) -> str:
    """One way to say what a scene shows, in lower or mixed case, with or without commas."""
    subject = " and ".join(_describe(actor, scene, rng) for actor in scene.actors)
    words = [subject]
    if rng.random() < (0.9 if scene.support is None else 0.5):
        words.append(rng.choice(PLACE_WORDS[scene.place]))
    text = " ".join(words)
    if rng.random() < 0.08:
        text = f"{rng.choice(OPENINGS)} {text}"
    if rng.random() < 0.12:
        text = ", ".join([text, *rng.sample(QUALITIES, rng.randint(1, 2))])
    return text


def plain_caption(actor: Actor, place: str) -> str:
    """The first words for everything: what `evaluate` asks for."""
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
        parts.append(rng.choice(MOTION_WORDS[actor.motion]))
    text = " ".join(part for part in parts if part)
    return with_article(text) if rng.random() > 0.06 else text


def all_phrases() -> list[str]:
    """Every phrase that a caption can be made of: what the tokenizer learns its merges from."""
    tables = (THING_WORDS, COLOUR_WORDS, MOTION_WORDS, PLACE_WORDS, SUPPORT_WORDS)
    phrases = [phrase for table in tables for choices in table.values() for phrase in choices]
    return [
        *phrases,
        *SEATED_WORDS,
        *OPENINGS,
        *MANNERS,
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
    """The words that mean something in this world, sorted: what a model card lists and a `tip` checks against."""
    return sorted({word.strip(",").lower() for phrase in all_phrases() for word in phrase.split()})
