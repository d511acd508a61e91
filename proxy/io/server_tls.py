"""TLS as one listener speaks it: which certificate a client is shown.

A context shows the certificates of one set of names: of each type of key one, of which OpenSSL
takes what the client can check.  Which context it is, the name that a client asks for says.  When
a certificate is renewed a new context takes the place of the old one, at one blow; what shook hands
with the old one stays with it.  So no handshake can meet half of a renewal, and the keys that
tickets are sealed with live no longer than a certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import attrs

from proxy.config.checks import Invalid
from proxy.config.tls import Certificate

from .certificates import Pair

#: Makes a context that shows these.
Make = Callable[[tuple[Pair, ...]], ssl.SSLContext]
#: Certificates that are shown together, by their places.
Group = tuple[int, ...]


@attrs.frozen
class Shown:
    """What is shown to whom."""

    #: To those who ask for a name that is not there, or for none.
    default: ssl.SSLContext
    #: By name; "*.example.org" is for each name with one label more.
    named: Mapping[str, ssl.SSLContext] = attrs.field(factory=dict)
    pairs: tuple[Pair, ...] = ()
    #: All contexts there are, by what they show.
    made: Mapping[tuple[Pair, ...], ssl.SSLContext] = attrs.field(factory=dict, repr=False)


def _shown(given: Shown | ssl.SSLContext) -> Shown:
    return given if isinstance(given, Shown) else Shown(given)


@attrs.define(eq=False)
class ServerTls:
    """What the clients of a listener shake hands with."""

    shown: Shown = attrs.field(converter=_shown)
    #: Whoever asks for a name that no certificate is for, or for none, is refused.
    reject_unknown: bool = False
    #: Seconds.
    handshake_timeout: float = 10.0
    #: What `shown.pairs` were read from.
    certificates: tuple[Certificate, ...] = ()
    make: Make | None = attrs.field(default=None, repr=False)
    #: All that contexts are made of besides certificates: with the same they can be used again.
    ingredients: Hashable = None

    def choose(self, name: str) -> ssl.SSLContext | None:
        """Return what a client that asks for a name shakes hands with.

        `name` is in lower case, and empty if it asks for none.  None: it is to be refused.
        """
        found = self._named(name)
        if found is None and not self.reject_unknown:
            return self.shown.default
        return found

    def is_for(self, name: str) -> bool:
        """Whether a certificate is for a name, in lower case: it is not just the first one."""
        return self._named(name) is not None

    def _named(self, name: str) -> ssl.SSLContext | None:
        named = self.shown.named
        return named.get(name) or named.get(f"*.{name.partition('.')[2]}")

    def renewed(self, pairs: Sequence[Pair], others: Iterable[ServerTls] = ()) -> Shown:
        """Return what is to be shown with other certificates; `shown` is for the caller to set.

        What `others` show in the same way is shown here too, and so are the tickets good for all.

        Raises:
            Invalid: two of them cannot be told apart.
            ssl.SSLError, OSError: what else contexts are made of cannot be used any more.
        """
        assert self.make is not None
        made = dict(self.shown.made)
        for other in others:
            if other.ingredients == self.ingredients:
                made.update(other.shown.made)
        return show(pairs, self.make, made)


def show(
    pairs: Sequence[Pair], make: Make, made: Mapping[tuple[Pair, ...], ssl.SSLContext]
) -> Shown:
    """Decide what is shown to whom; where the context for it is `made` already, that one stays.

    Raises:
        Invalid: two of them cannot be told apart, or one is for no name.
    """
    default, named = plan([pair.names for pair in pairs], [pair.key_type for pair in pairs])
    contexts: dict[tuple[Pair, ...], ssl.SSLContext] = {}

    def context(group: Group) -> ssl.SSLContext:
        members = tuple(pairs[index] for index in group)
        if members not in contexts:
            contexts[members] = made.get(members) or make(members)
        return contexts[members]

    return Shown(
        context(default),
        {name: context(group) for name, group in named.items()},
        tuple(pairs),
        contexts,
    )


def plan(
    names: Sequence[Sequence[str]], key_types: Sequence[str]
) -> tuple[Group, dict[str, Group]]:
    """Group certificates by the names that they are for; the first group is the default.

    Raises:
        Invalid: two with keys of one type are for the same name, or one is for no name at all.
    """
    groups: dict[str, Group] = {}
    faults: list[tuple[str, str]] = []
    for index, own in enumerate(names):
        where, kind = f"certificates[{index}]", key_types[index]
        if index and not own:
            reason = "has no DNS name, and is not the first: it would never be shown; give it names"
            faults.append((where, reason))
        for name in dict.fromkeys(own):
            group = groups.get(name, ())
            rival = next((one for one in group if key_types[one] == kind), None)
            if rival is not None:
                reason = f"is for {name!r} with {kind}, as certificates[{rival}] is"
                hint = "take one away, or say with names which is for what"
                faults.append((where, f"{reason}; {hint}"))
                break
            groups[name] = (*group, index)
    if faults:
        raise Invalid(*faults)
    return (groups[names[0][0]] if names[0] else (0,)), groups
