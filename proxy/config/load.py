"""From a TOML file to `Config`, with every fault of the file in one go.

cattrs walks the model and collects what does not fit; here each fault becomes one line,
`file: path.to.key: reason`.  Values are never coerced: `port = "80"` is a mistake, not a number.
"""

from __future__ import annotations

import functools
import os
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
from cattrs import (
    BaseValidationError,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_mapping_structure_fn, override

from proxy.errors import ConfigError

from .address import Address
from .checks import Invalid, NewFile
from .model import Config
from .network import Network
from .page import Page
from .upstream import Node

_NAMES = {
    dict: "a table",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a configuration file; relative file names in it are relative to its folder.

    Raises:
        ConfigError: with all of the file's faults.
    """
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "is not UTF-8"
        raise ConfigError([f"{file}: {reason}"]) from exc
    return parse_config(text, name=str(file), folder=file.parent)


def parse_config(text: str, *, name: str = "config", folder: Path | None = None) -> Config:
    """Read a configuration from TOML text; `name` is what faults call it.

    Raises:
        ConfigError: with all of the text's faults.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        # Not all are TOMLDecodeError: a number may be too long, and tables too deep.
        raise ConfigError([f"{name}: not TOML: {_printable(str(exc))}"]) from exc
    try:
        return _converter(folder or Path()).structure(data, Config)
    except BaseValidationError as group:
        faults = [f"{path or '(top level)'}: {why}" for path, why in _faults(group, "")]
        problems = [f"{name}: {_printable(fault)}" for fault in faults]
        raise ConfigError(problems) from group


@functools.lru_cache(maxsize=8)
def _converter(folder: Path) -> Converter:
    """Return what structures the files of a folder; to make it is most of what a reload costs."""
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (str, bool, int, float):
        converter.register_structure_hook(kind, _strictly)
    converter.register_structure_hook(Path, functools.partial(_file, folder))
    converter.register_structure_hook(NewFile, lambda value, _: folder / _strictly(value, str))
    converter.register_structure_hook(
        Page, lambda value, kind: Page.read(_file(folder, value, kind))
    )
    converter.register_structure_hook(
        Network, lambda value, _: Network.parse(_strictly(value, str))
    )
    converter.register_structure_hook(
        Address, lambda value, _: Address.parse(_strictly(value, str))
    )
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is Literal, _literal
    )
    converter.register_structure_hook_factory(
        lambda kind: getattr(kind, "__origin__", None) is tuple, _array
    )
    converter.register_structure_hook_factory(
        lambda kind: getattr(kind, "__origin__", None) is dict, _named_tables
    )
    converter.register_structure_hook_factory(attrs.has, _section)
    return converter


def _strictly(value: Any, kind: type) -> Any:
    """Accept a value of just this type, and a whole number for a number."""
    given = type(value)
    if given is kind or (kind is float and given is int):
        return kind(value)
    raise ValueError(f"must be {_NAMES[kind]}, not {_NAMES.get(given, given.__name__)}")


def _literal(value: Any, kind: Any) -> Any:
    if value in get_args(kind) and type(value) is str:
        return value
    raise ValueError(f"must be one of {', '.join(map(repr, get_args(kind)))}, not {value!r}")


def _file(folder: Path, value: Any, _: Any) -> Path:
    file: Path = folder / _strictly(value, str)
    if not file.is_file():
        raise ValueError(f"no such file: {file}")
    if not os.access(file, os.R_OK):
        raise ValueError(f"may not be read by this user: {file}")
    return file


_Hook = Callable[[Any, Any], Any]


def _array(kind: Any, converter: Converter) -> _Hook:
    element = get_args(kind)[0]
    inner: Any = types.GenericAlias(list, (element,))

    def structure(value: Any, _: Any) -> Any:
        return tuple(converter.structure(_strictly(value, list), inner))

    return structure


def _named_tables(kind: Any, converter: Converter) -> _Hook:
    """A table of values, each under a name; cattrs' own hook would coerce an array to one.

    The converter's method of that name would register what it makes, in place of this.
    """
    inner: _Hook = make_mapping_structure_fn(kind, converter)

    def structure(value: Any, _: Any) -> Any:
        return inner(_strictly(value, dict), kind)

    return structure


def _section(kind: type, converter: Converter) -> _Hook:
    """Structure a class of the model, running each field's validator as part of that field.

    Left to `__init__`, only the first bad field of a section would be reported.
    """
    attrs.resolve_types(kind)
    overrides: dict[str, Any] = {}
    for field in attrs.fields(kind):
        if field.validator is not None:
            overrides[field.name] = override(struct_hook=_validated(field, converter))
    inner: _Hook = make_dict_structure_fn(
        kind,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        **overrides,
    )

    def structure(value: Any, _: Any) -> Any:
        if kind is Node and type(value) is str:
            value = {"address": value}
        return inner(_strictly(value, dict), kind)

    return structure


def _validated(field: attrs.Attribute[Any], converter: Converter) -> _Hook:
    def structure(value: Any, kind: Any) -> Any:
        result = converter.structure(value, kind)
        assert field.validator is not None
        field.validator(None, field, result)
        return result

    return structure


def _faults(exc: BaseException, path: str) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for every leaf of cattrs' tree of errors."""
    if isinstance(exc, (ClassValidationError, IterableValidationError)):
        noted, others = exc.group_exceptions()
        for inner, note in noted:
            yield from _faults(inner, path + _step(note, bool(path)))
        for inner in others:
            yield from _faults(inner, path)
    elif isinstance(exc, ForbiddenExtraKeysError):
        allowed = ", ".join(sorted(field.name for field in attrs.fields(exc.cl)))
        for key in sorted(exc.extra_fields):
            yield _join(path, key), f"unknown key; allowed here: {allowed}"
    elif isinstance(exc, Invalid):
        for key, reason in exc.faults:
            yield _join(path, key), reason
    elif isinstance(exc, KeyError):
        # The path names the missing key already.
        yield path, "is missing"
    else:
        yield path, _reason(exc)


def _step(note: Any, nested: bool) -> str:
    if isinstance(note, IterableValidationNote):
        return f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
    return f".{note.name}" if nested else str(note.name)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key


def _reason(exc: BaseException) -> str:
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    text = str(exc.args[0]) if exc.args else type(exc).__name__
    # attrs words its length checks for programmers.
    if text.startswith("Length of"):
        return "must have at least one entry"
    return text


def _printable(text: str) -> str:
    """Escape line ends and other control characters: quoted TOML keys may hold any."""
    return "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in text)
