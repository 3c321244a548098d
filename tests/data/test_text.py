"""The real text and its alphabet."""

import pytest

from course_utils.data import load_text


class TestText:
    def test_real_text_and_round_trip(self):
        text = load_text()
        assert len(text.characters) > 30_000
        assert "iris" in text.characters.lower()
        assert text.decode(text.encode(text.characters)) == text.characters
        assert len(set(text.vocab)) == len(text.vocab)

    def test_unknown_character_is_named(self):
        with pytest.raises(ValueError, match="猫"):
            load_text().encode("a 猫")
