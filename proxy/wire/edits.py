"""What a route does to the headers of its messages, made ready to be done often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from proxy.config.headers import PLACEHOLDER, HeaderRules

Lines = list[tuple[bytes, bytes]]
#: What stands for each placeholder.
Words = Mapping[str, str]


@attrs.frozen
class Edits:
    """Names to take out, in lower case, and lines to add then; values may have placeholders."""

    dropped: frozenset[bytes] = frozenset()
    added: tuple[tuple[bytes, str], ...] = ()

    @classmethod
    def of(cls, rules: HeaderRules) -> Edits:
        """Compile rules: what is set is taken out, and added."""
        dropped = frozenset(name.lower().encode() for name in (*rules.remove, *rules.set))
        lines = (*rules.set.items(), *rules.add.items())
        return cls(dropped, tuple((name.encode(), value) for name, value in lines))

    def apply(self, headers: Lines, words: Callable[[], Words]) -> Lines:
        """Return the headers as they are to be; `words` is called if there are any rules."""
        if not (self.dropped or self.added):
            return headers
        known = words()
        kept = [pair for pair in headers if pair[0].lower() not in self.dropped]
        return kept + [(name, _filled(value, known)) for name, value in self.added]


def _filled(value: str, words: Words) -> bytes:
    """Return a value with what the placeholders stand for, which may be nothing."""
    if "{" not in value:
        return value.encode("latin-1")
    filled = PLACEHOLDER.sub(lambda match: words.get(match[1], match[0]), value)
    return filled.strip().encode("latin-1")


NO_EDITS: Final = Edits()
