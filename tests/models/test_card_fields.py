"""What an importer may say of a model."""

from __future__ import annotations

import pytest

from promptreel.errors import InvalidParams
from promptreel.models.card_fields import MAX_TEXT, read_card_fields

WORDS = "x" * 200


def test_phrases_have_no_more_characters_together_than_in_a_folders_card() -> None:
    most = {"trigger_words": (WORDS,) * 5, "quality_words": (WORDS,) * 5}

    assert read_card_fields(most).quality_words == (WORDS,) * 5
    with pytest.raises(InvalidParams, match=f"may have {MAX_TEXT} characters together") as caught:
        read_card_fields(most | {"trigger_words": (WORDS,) * 6})
    assert list(caught.value.fields) == ["trigger_words"]
