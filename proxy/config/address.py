"""Addresses as an operator writes them: `host:port`, `[v6]:port`, `unix:/path`, `srv:name`."""

from __future__ import annotations

import re

import attrs

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[^\s\[\]:/]+)?)\]|(?P<host>[^\s\[\]:/]+)):(?P<port>[0-9]{1,5})"
)
_SRV = re.compile(r"_[A-Za-z0-9_-]{1,62}\._tcp(?:\.[A-Za-z0-9_-]{1,63})+\.?")


@attrs.frozen
class Address:
    """Where to listen or whom to dial: a host and port, or the path of a unix socket.

    `srv` is the name of an SRV record (RFC 2782), which tells hosts and ports.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    srv: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `[v6]:port`, `unix:/path` or `srv:_service._tcp.name`.

        Raises:
            ValueError: if the text is none of them.
        """
        if text.startswith("unix:"):
            # A socket's path has 108 bytes in the kernel's structure, the last of them a NUL.
            if 0 < len((path := text.removeprefix("unix:")).encode()) < 108:
                return cls(path=path)
            raise ValueError(f"{text!r}: a unix socket needs a path of 1 to 107 bytes")
        if text.startswith("srv:"):
            if _SRV.fullmatch(name := text.removeprefix("srv:")):
                return cls(srv=name)
            raise ValueError(f'{text!r}: an SRV name is like "srv:_deepstream._tcp.example.org"')
        match = _HOST_PORT.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ValueError(f'{text!r} is not an address: "host:port", "[v6]:port", "unix:/path"')
        return cls(host=match["v6"] or match["host"], port=int(match["port"]))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.srv:
            return f"srv:{self.srv}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """How it is called in a Host header."""
        if self.path:
            return "localhost"
        # The zone of a link-local address means something here only (RFC 6874 section 1).
        return str(attrs.evolve(self, host=self.host.partition("%")[0]))
