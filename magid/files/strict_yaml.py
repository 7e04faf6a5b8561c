"""The strict subset of YAML in magid's own files, with errors that name the line.

It refuses the parts of YAML that surprise people or help an attacker: duplicate keys, keys that are
not text, aliases, anchors, tags, merge keys, several documents in one file, and documents that are
too large or too deep. Plain scalars follow the JSON-like schema of YAML 1.2, not YAML 1.1: only
`true` and `false` are booleans and only decimal numbers are numbers, so `no`, `012`, `1:30` and
`2025-01-02` stay text.

The only importer of PyYAML.
"""

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from msgspec import Struct

from magid.files.schema import Location

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16

Scalar = str | int | float | bool | None

# 18 digits always fit 64 bits; a longer number stays text and is refused as the wrong type.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{0,30})?(?:[eE][-+]?[0-9]{1,3})?|[-+]?\.[0-9]{1,30}"
)
_WORDS: Mapping[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}
# As magid.yaml is shipped. PyYAML, which goes through comments character by character, takes 5 ms.
_ONLY_COMMENTS = re.compile(r"(?: *(?:#[\x20-\x7e]*)?\n)*")
_NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")  # cannot be in a path, or written as UTF-8


class YamlError(Exception):
    """The text cannot be used. `str()` is one complete line for a person."""

    def __init__(
        self, name: str, reason: str, *, line: int | None = None, column: int | None = None
    ) -> None:
        where = "" if line is None else f"line {line}: "
        if line is not None and column is not None:
            where = f"line {line}, column {column}: "
        super().__init__(f"cannot read {name}: {where}{reason}")
        self.name = name
        self.reason = reason
        self.line = line  # from 1
        self.column = column  # from 1


class Document(Struct, frozen=True):
    """A file's content, and the line of each key."""

    data: dict[str, Any]
    lines: Mapping[Location, int]
    name: str

    def line(self, path: Location) -> int | None:
        """Returns the line of this key or list item, else of the nearest one that contains it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, os.stat_result]:
    """Returns a small regular file's content and status. Blocks, but never on a FIFO or device.

    Raises OSError, and YamlError if it is not a regular file or larger than `max_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise YamlError(str(path), "it is not a regular file")
        content = b""
        while len(content) <= max_bytes and (chunk := os.read(descriptor, max_bytes + 1)):
            content += chunk
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise YamlError(str(path), f"it is larger than {max_bytes} bytes")
    return content, status


def load(path: Path, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Document:
    """Returns the mapping in a file; an empty file is an empty mapping. Blocks.

    Raises YamlError, also instead of OSError, except for FileNotFoundError: only the caller knows
    what a missing file means.
    """
    try:
        content, _ = read_bytes(path, max_bytes=max_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise YamlError(str(path), error.strerror or str(error)) from None
    return loads(content, str(path), max_bytes=max_bytes, max_depth=max_depth)


def loads(
    content: bytes | str, name: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> Document:
    """Returns the mapping in a text; `name` is for errors. Pure. Raises YamlError."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    if len(raw) > max_bytes:
        raise YamlError(name, f"it is larger than {max_bytes} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise YamlError(name, "it is not UTF-8; save it as UTF-8", line=line) from None
    if _ONLY_COMMENTS.fullmatch(text):
        return Document({}, {}, name)
    reader = _YamlReader(text, name, max_depth)
    return Document(reader.document(), reader.lines, name)


def scalar(text: str) -> Scalar:
    """Returns the value of a plain (unquoted) scalar. Pure."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def dumps(data: Mapping[str, Any]) -> str:
    """Returns block-style YAML, with keys in their order, that `loads` reads back equal. Pure.

    Raises YamlError for data that is not plain, too large or too deep.
    """
    try:
        text = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    except yaml.YAMLError as error:
        raise YamlError("the data to write", str(error)) from None
    if loads(text, "the data to write").data != data:
        raise YamlError("the data to write", "YAML would change it")
    return text


class _YamlReader:
    """Builds plain data from parser events, which include anchors, tags and positions."""

    def __init__(self, text: str, name: str, max_depth: int) -> None:
        self.lines: dict[Location, int] = {}
        self._name = name
        self._max_depth = max_depth
        try:
            self._loader = yaml.SafeLoader(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._refuse(f"the character U+{error.character:04X} is not allowed; remove it", line)

    def document(self) -> dict[str, Any]:
        self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return {}
        event = self._next()
        line = _line(event)
        data = self._node(event, ())
        self._next()  # the end of the document
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            self._refuse("a second document starts here; keep one per file", _line(event))
        if data is None:
            return {}
        if not isinstance(data, dict):
            self._refuse("the file has to be a mapping of keys to values", line)
        return data

    def _node(self, event: yaml.Event, path: Location) -> Any:
        if isinstance(event, yaml.AliasEvent):
            self._refuse(f"alias '*{event.anchor}' is not allowed; spell it out", _line(event))
        if anchor := getattr(event, "anchor", None):
            self._refuse(f"anchor '&{anchor}' is not allowed; remove it", _line(event))
        if tag := getattr(event, "tag", None):
            self._refuse(f"tag '{tag}' is not allowed; remove it", _line(event))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= self._max_depth:
            self._refuse(f"nested more than {self._max_depth} deep", _line(event))
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        return self._sequence(path)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text: str = event.value
        if _NOT_TEXT.search(text):
            self._refuse("the text has a character that is not allowed; remove it", _line(event))
        return scalar(text) if event.implicit[0] else text

    def _mapping(self, path: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, path)
            if key in data:
                self._refuse(f"key '{key}' is given twice; remove one", _line(event))
            self.lines[*path, key] = _line(event)
            data[key] = self._node(self._next(), (*path, key))
        return data

    def _key(self, event: yaml.Event, path: Location) -> str:
        if isinstance(event, yaml.CollectionStartEvent):
            self._refuse("a key is a list or a mapping; keys have to be text", _line(event))
        key = self._node(event, path)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and key == "<<":
            self._refuse("merge key '<<' is not allowed; spell the keys out", _line(event))
        if not isinstance(key, str):
            shown = json.dumps(key)
            self._refuse(f"key {shown} is not text; put it in quotes", _line(event))
        return key

    def _sequence(self, path: Location) -> list[Any]:
        data: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            here = (*path, len(data))
            self.lines[here] = _line(event)
            data.append(self._node(event, here))
        return data

    def _next(self) -> yaml.Event:
        try:
            event: yaml.Event = self._loader.get_event()  # type: ignore[no-untyped-call]  # as its stubs have it
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = " ".join(filter(None, (error.context, error.problem)))
            if mark is None:
                raise YamlError(self._name, reason) from None
            raise YamlError(
                self._name, reason, line=mark.line + 1, column=mark.column + 1
            ) from None
        except (ValueError, OverflowError):  # PyYAML does not check the number in "\Uffffffff"
            self._refuse("an escape is not a valid character", self._loader.line + 1)
        return event

    def _refuse(self, reason: str, line: int) -> NoReturn:
        raise YamlError(self._name, reason, line=line) from None


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return int(mark.line) + 1 if mark is not None else 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else; never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML itself quotes the numbers of YAML 1.1; `1e5` is a number only for us.
    # Line breaks other than "\n" survive only in double quotes.
    style = None if isinstance(scalar(text), str) else "'"
    style = style if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)
