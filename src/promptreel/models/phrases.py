"""What a model is told beyond the user's own words: the phrases of its card, if the user wants them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from promptreel.models.registry import ModelCard

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def enhance_prompt(prompt: str, card: ModelCard) -> str:
    """The prompt between the card's trigger phrases and its quality phrases: "TRIGGER a cat on a bench QUALITY, QUALITY".

    The user's text stays as it is. A phrase that it holds already, in any case, is not added, and none is added twice, so
    that an enhanced prompt is not enhanced any further. A model with a vocabulary gets only phrases that it knows whole.
    """
    triggers: list[str] = []
    qualities: list[str] = []
    for added, phrases in ((triggers, card.trigger_words), (qualities, card.quality_words)):
        for phrase in phrases:
            if not _is_said(phrase, (prompt, *triggers, *qualities)) and not find_unknown_words(phrase, card.words):
                added.append(phrase)
    return _put_side_by_side(_put_side_by_side(", ".join(triggers), prompt), ", ".join(qualities))


def find_unknown_words(text: str, words: Collection[str]) -> list[str]:
    """The text's words that are not in the vocabulary `words`, in lower case, each once; none if there is no vocabulary."""
    return [word for word in dict.fromkeys(_WORD.findall(text.lower())) if word not in words] if words else []


def _is_said(phrase: str, texts: Iterable[str]) -> bool:
    """Whether one of the texts holds the phrase as words of its own: "art" is not said by "party"."""
    spelled = r"\s+".join(map(re.escape, phrase.split()))
    pattern = re.compile(rf"(?<!\w){spelled}(?!\w)", re.IGNORECASE)
    return any(pattern.search(text) for text in texts)


def _put_side_by_side(left: str, right: str) -> str:
    """Both, with a space between them where there is none."""
    touch = left and right and not left[-1].isspace() and not right[0].isspace()
    return f"{left} {right}" if touch else left + right
