"""Files that are sent as answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.page import PAGE_BYTES, Page


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("A.HTM", "text/html; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.tar.gz", "application/octet-stream"),
        ("html", "application/octet-stream"),
    ],
)
def test_content_type_is_what_its_name_says(name: str, kind: str) -> None:
    assert Page(Path(name), b"").content_type == kind


def test_size_has_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * PAGE_BYTES)

    assert Page.read(file).body == b"x" * PAGE_BYTES
    file.write_bytes(b"x" * (PAGE_BYTES + 1))
    with pytest.raises(ValueError, match="has more than 256 KiB"):
        Page.read(file)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Page.read(tmp_path / "none")


def test_pages_are_not_shown_whole() -> None:
    assert "secret" not in repr(Page(Path("a"), b"secret"))
