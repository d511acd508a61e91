"""A file that is sent as the body of an answer; it is read with the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

#: The largest file.  It stays in memory and is sent in one piece: a page, not a download.
#: HAProxy's errorfile: 16 KiB less what it reserves; nginx: any
PAGE_BYTES: Final = 256 * 1024

# Not the module `mimetypes`: what that knows depends on the machine's files.
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml",
}


@attrs.frozen
class Page:
    """A file's content, as it was when the configuration was read."""

    file: Path
    body: bytes = attrs.field(repr=False)

    @classmethod
    def read(cls, file: Path) -> Page:
        """Read a file.

        Raises:
            ValueError: it is too large.
            OSError: it cannot be read.
        """
        with file.open("rb") as stream:
            body = stream.read(PAGE_BYTES + 1)
        if len(body) > PAGE_BYTES:
            raise ValueError(f"has more than {PAGE_BYTES // 1024} KiB: {file}")
        return cls(file, body)

    @property
    def content_type(self) -> str:
        """What its name says that it is."""
        return _TYPES.get(self.file.suffix.lower(), "application/octet-stream")
