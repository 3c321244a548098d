"""A real English text that is on every machine: the descriptions that scikit-learn ships with its data sets."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """A text, and its characters as numbers.

    Attributes:
        characters: the text itself.
        vocab: the different characters in it, sorted; a character's position is its id.
    """

    characters: str
    vocab: tuple[str, ...]

    def encode(self, characters: str) -> Tensor:
        """Characters → ids, int64 (T,). A character outside the vocabulary raises a ValueError."""
        ids = {character: i for i, character in enumerate(self.vocab)}
        unknown = sorted({character for character in characters if character not in ids})
        if unknown:
            raise ValueError(f"the text's vocabulary has no {unknown}; it has {''.join(self.vocab)!r}")
        return torch.tensor([ids[character] for character in characters], dtype=torch.int64)

    def decode(self, token_ids: Tensor) -> str:
        """Ids (T,) → characters. An id outside the vocabulary raises a ValueError."""
        if len(token_ids) and (token_ids.min() < 0 or token_ids.max() >= len(self.vocab)):
            raise ValueError(f"token_ids must lie in 0 to {len(self.vocab) - 1}, but range to {int(token_ids.max())}")
        return "".join(self.vocab[i] for i in token_ids.tolist())

    def __repr__(self) -> str:
        return f"Text({len(self.characters):,} characters, vocabulary of {len(self.vocab)})"


@cache
def load_text() -> Text:
    """The descriptions of scikit-learn's data sets (BSD-3-Clause) as one text of about 40,000 characters.

    >>> text = load_text()
    >>> text.decode(text.encode("flower"))
    'flower'
    """
    folder = files("sklearn.datasets.descr")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".rst"))
    characters = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return Text(characters, tuple(sorted(set(characters))))
