from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptreel.models.phrases import enhance_prompt, find_unknown_words
from promptreel.models.registry import ModelCard, ModelRegistry
from tests.models.checkpoints import make_card

QUALITIES = ["DSLR photography", "sharp focus"]


def read_card(folder: Path, **fields: object) -> ModelCard:
    make_card(folder / "model", **{"trigger_words": ["mdjrny-v4 style"], "quality_words": QUALITIES, "words": []} | fields)
    return ModelRegistry(built_in=folder, models_dir=folder / "none").get("model")


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return read_card(tmp_path)


def test_trigger_goes_in_front_and_quality_to_the_end(card: ModelCard) -> None:
    enhanced = enhance_prompt("a cat sitting on a bench", card)

    assert enhanced == "mdjrny-v4 style a cat sitting on a bench DSLR photography, sharp focus"


def test_phrases_are_parted_by_commas(tmp_path: Path) -> None:
    card = read_card(tmp_path, trigger_words=["one", "two"], quality_words=["three", "four", "five"])

    assert enhance_prompt("a cat", card) == "one, two a cat three, four, five"


def test_card_without_phrases_leaves_the_prompt_untouched(tmp_path: Path) -> None:
    card = read_card(tmp_path, trigger_words=[], quality_words=[])

    assert enhance_prompt(" A  cat,\n", card) == " A  cat,\n"


@pytest.mark.parametrize(
    ("prompt", "enhanced"),
    [
        ("a cat, Sharp  FOCUS", "mdjrny-v4 style a cat, Sharp  FOCUS DSLR photography"),
        ("sharp focus on a cat", "mdjrny-v4 style sharp focus on a cat DSLR photography"),
        ("a cat in MDJRNY-V4 style", "a cat in MDJRNY-V4 style DSLR photography, sharp focus"),
        ("(sharp focus), dslr photography", "mdjrny-v4 style (sharp focus), dslr photography"),
        ("a cat in unsharp focus", "mdjrny-v4 style a cat in unsharp focus DSLR photography, sharp focus"),
        ("sharp focusing", "mdjrny-v4 style sharp focusing DSLR photography, sharp focus"),
    ],
)
def test_phrase_that_the_user_wrote_is_not_added(card: ModelCard, prompt: str, enhanced: str) -> None:
    assert enhance_prompt(prompt, card) == enhanced


def test_phrase_that_the_card_has_twice_is_added_once(tmp_path: Path) -> None:
    card = read_card(tmp_path, trigger_words=["film", "Film"], quality_words=["FILM", "grain", "film grain", "Grain"])

    assert enhance_prompt("a cat", card) == "film a cat grain, film grain"


def test_users_text_keeps_its_white_space_and_gets_none_beside_it(card: ModelCard) -> None:
    assert enhance_prompt("a cat, ", card) == "mdjrny-v4 style a cat, DSLR photography, sharp focus"
    assert enhance_prompt("\ta  cat\n", card) == "mdjrny-v4 style\ta  cat\nDSLR photography, sharp focus"


def test_model_with_a_vocabulary_gets_only_phrases_that_it_knows_whole(tmp_path: Path) -> None:
    words = ["a", "cat", "sharp", "focus", "mdjrny-v4", "dslr"]
    card = read_card(tmp_path, words=words, quality_words=["DSLR photography", "Sharp Focus"])

    assert enhance_prompt("a dragon", card) == "a dragon Sharp Focus"


def test_phrase_is_taken_by_the_letter_and_not_as_a_pattern(tmp_path: Path) -> None:
    card = read_card(tmp_path, trigger_words=["c.t"], quality_words=["(best:1.2)", "art\\d"])

    assert enhance_prompt("a cat", card) == "c.t a cat (best:1.2), art\\d"


PHRASES = st.lists(st.text(alphabet="aB ,.(İß", max_size=6), max_size=4)


@given(prompt=st.text(alphabet="abB ,.(İß\t", max_size=12), triggers=PHRASES, qualities=PHRASES)
def test_enhancing_keeps_the_users_text_and_goes_no_further(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, triggers: list[str], qualities: list[str]
) -> None:
    """So a prompt that is copied out of an answer's meta makes the same video again."""
    trigger_words, quality_words = ([phrase for phrase in phrases if phrase.strip()] for phrases in (triggers, qualities))
    card = read_card(tmp_path_factory.mktemp("card"), trigger_words=trigger_words, quality_words=quality_words)
    once = enhance_prompt(prompt, card)

    assert prompt in once
    assert enhance_prompt(once, card) == once


def test_unknown_words_are_named_once_in_lower_case() -> None:
    words = {"cat", "cut-out", "don't"}

    assert find_unknown_words("Cat, CUT-OUT; don't! Dragon dragon. a-b 4k", words) == ["dragon", "a-b", "4k"]


def test_model_without_a_vocabulary_knows_every_word() -> None:
    assert find_unknown_words("a dragon", frozenset()) == []
