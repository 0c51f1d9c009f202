"""Enhanced prompts: the phrases that a model's card adds to the user's words, if the user wants them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from promptreel.models.registry import ModelCard

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def enhance_prompt(prompt: str, card: ModelCard, loras: Iterable[ModelCard] = ()) -> str:
    """The prompt between the card's trigger phrases and its quality phrases: "TRIGGER a cat on a bench QUALITY, QUALITY".

    The trigger phrases of `loras` follow those of the card.

    The user's text itself is not changed. A phrase that it already contains, in upper or lower case, is not added, so that
    enhancing a prompt twice changes nothing. If the model has a vocabulary, only phrases made of its words are added.
    """
    triggers: list[str] = []
    qualities: list[str] = []
    of_loras = [phrase for lora in loras for phrase in lora.trigger_words]
    for added, phrases in ((triggers, (*card.trigger_words, *of_loras)), (qualities, card.quality_words)):
        for phrase in phrases:
            if not _is_said(phrase, (prompt, *triggers, *qualities)) and not find_unknown_words(phrase, card.words):
                added.append(phrase)
    return _put_side_by_side(_put_side_by_side(", ".join(triggers), prompt), ", ".join(qualities))


def find_unknown_words(text: str, words: Collection[str]) -> list[str]:
    """The text's words outside the vocabulary `words`, in lower case, each once. Empty without a vocabulary."""
    return [word for word in dict.fromkeys(_WORD.findall(text.lower())) if word not in words] if words else []


def words_of(embedding: ModelCard) -> tuple[str, ...]:
    """What stands for an embedding in a prompt: its trigger words, else its id."""
    return embedding.trigger_words or (embedding.model_id,)


def without(embeddings: Iterable[ModelCard], text: str) -> str:
    """The text without the words of embeddings."""
    return any_of(word for each in embeddings for word in words_of(each)).sub(" ", text)


def tell_unwritten(embeddings: Iterable[ModelCard], *prompts: str) -> list[str]:
    """A note on each embedding that no prompt contains, so that it does nothing."""
    return [
        f"the embedding {each.model_id!r} does nothing: write {words_of(each)[0]!r} in the prompt or the negative prompt"
        for each in embeddings
        if not any(map(any_of(words_of(each)).search, prompts))
    ]


def any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """Finds a phrase as whole words, in upper or lower case: "party" does not contain "art". A group for each phrase."""
    return re.compile("|".join(f"({_spell(phrase)})" for phrase in phrases) or "(?!)", re.IGNORECASE)


def _spell(phrase: str) -> str:
    """A border only where a word ends: what is none, such as <cat>, may stand beside one."""
    before, behind = (
        border if re.match(r"\w", end) else "" for border, end in ((r"(?<!\w)", phrase[0]), (r"(?!\w)", phrase[-1]))
    )
    return before + r"\s+".join(map(re.escape, phrase.split())) + behind


def _is_said(phrase: str, texts: Iterable[str]) -> bool:
    return any(map(any_of([phrase]).search, texts))


def _put_side_by_side(left: str, right: str) -> str:
    """Both texts, separated by a space."""
    touch = left and right and not left[-1].isspace() and not right[0].isspace()
    return f"{left} {right}" if touch else left + right
