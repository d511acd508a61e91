"""The shape of the project: who may import whom, and that every module has its tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "proxy"

#: The rooms in the order in which they may know each other: a module imports from its own and from
#: those before it. `wire` and `pool` stand side by side and know nothing of each other.
ORDER = ["errors", "config", ("wire", "pool"), "io", "observe", "serve", "testing", "cli"]
RANK = {
    room: rank
    for rank, rooms in enumerate(ORDER)
    for room in (rooms if isinstance(rooms, tuple) else (rooms,))
}
#: Not for rooms that are sans-IO: time, randomness and bytes come in as arguments.
OUTSIDE = {"trio", "socket", "ssl", "select", "time", "random", "secrets", "asyncio", "threading"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, relative imports made absolute."""
    package = (path.parent.relative_to(ROOT)).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from proxy import x` may import the module x as well as a name.
            rooms = [f"proxy.{alias.name}" for alias in node.names if alias.name in RANK]
            yield from (rooms if module == "proxy" else [module])


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "proxy" and len(parts) > 1 and parts[1] != room:
            assert RANK[parts[1]] < RANK[room], f"{room} may not import {name}"


@pytest.mark.parametrize("room", ["errors", "config", "wire", "pool"])
def test_sans_io_rooms_know_no_io(room: str) -> None:
    allowed = {"config": {"os"}}.get(room, set())
    forbidden = (OUTSIDE | {"os"}) - allowed
    paths = [path for path in modules() if room_of(path) == room]

    assert paths
    for path in paths:
        assert not forbidden & {name.split(".")[0] for name in imported_modules(path)}, path


def test_every_module_has_its_test_file() -> None:
    for path in modules():
        inner = path.relative_to(PACKAGE)
        if inner.name in ("__init__.py", "__main__.py"):
            continue
        test = ROOT / "tests" / inner.parent / f"test_{inner.name}"

        assert test.exists(), f"{path.relative_to(ROOT)} has no {test.relative_to(ROOT)}"


def test_files_can_be_read_in_one_sitting() -> None:
    for path in modules():
        assert path.read_text().count("\n") <= 350, path.relative_to(ROOT)
