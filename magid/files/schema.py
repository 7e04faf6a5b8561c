"""Schemas of files that people edit: Structs whose annotations say what each field takes.

The annotations are the only source of the rules. `read` checks data against them with msgspec. Only
for data that does not fit does `files.explanation` make a pydantic model of the same annotations,
which finds every error and describes it: pydantic takes longer to load than all of magid.

In an annotation, `Meta` has bounds and a description, and `Rule` a further check. A `Path` has to
be absolute. Numbers, text and booleans are strict: `"5"` is not a number.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

Location = tuple[str | int, ...]  # of keys and list positions, from the top


class Rule(Struct, frozen=True):
    """A check of a value that has the right type. `check` returns the value, perhaps normalized.

    It raises ValueError with a reason that follows the key: "should be ...". With `beside` it gets
    the value of that field, which has to come first in the schema, as a second argument.
    """

    check: Callable[..., Any]
    beside: str = ""


def about(description: str) -> Meta:
    """Returns the description of a field, for documents."""
    return Meta(description=description)


class Schema(Struct, frozen=True, forbid_unknown_fields=True):
    """A checked mapping. Raises ValueError if a rule refuses a value."""

    has_api_names: ClassVar[bool] = False  # its keys may be in camelCase too, as in the API
    api_title: ClassVar[str] = ""  # in the API's document, where it is not the class's name
    omits_defaults: ClassVar[bool] = False  # `plain` leaves out the fields that have their default

    def __post_init__(self) -> None:
        for name, apply in _rules(type(self)):
            value = getattr(self, name)
            checked = apply(value, self)
            if checked is not value:
                force_setattr(self, name, checked)


class Fault(Struct, frozen=True):
    """One error in data, in words."""

    path: Location
    reason: str  # follows the key: "should be ...", "is not known ..."

    @property
    def key(self) -> str:
        """`tier_config[0].max_score`."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return "".join(parts).removeprefix(".")

    def __str__(self) -> str:
        return f"{self.key} {self.reason}".strip()


class Mismatch(ValueError):
    """Data does not fit its schema. Has its errors, unknown keys first; of many the first ones."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


S = TypeVar("S", bound=Schema)


def read(data: object, kind: type[S]) -> S:
    """Returns data decoded from YAML or JSON as a value of this schema. Pure. Raises Mismatch."""
    try:
        return msgspec.convert(data, kind, dec_hook=_path)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for bytes of no UTF-8
        from magid.files import explanation  # late: see the module's docstring

        return explanation.read(data, kind)


def plain(value: Any, *, api_names: bool = False) -> Any:
    """Returns the value as plain data, with its keys as in files or in the API. Pure."""
    if isinstance(value, Schema):
        return {
            api_name(name) if api_names else name: plain(getattr(value, name), api_names=api_names)
            for name in _shown(value)
        }
    if isinstance(value, tuple):
        return [plain(item, api_names=api_names) for item in value]
    if isinstance(value, dict):
        return {name: plain(item, api_names=api_names) for name, item in value.items()}
    return msgspec.to_builtins(value, enc_hook=str)


def _shown(value: Schema) -> Iterator[str]:
    """The names of the fields that `plain` has."""
    for each in msgspec.structs.fields(type(value)):
        if value.omits_defaults and not each.required:
            has_factory = each.default_factory is not msgspec.NODEFAULT
            default = each.default_factory() if has_factory else each.default
            if getattr(value, each.name) == default:
                continue
        yield each.name


def api_name(name: str) -> str:
    """Returns `maxScore` for `max_score`. Pure."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def absolute(value: object) -> Path:
    """Returns the value as a Path. Raises ValueError unless it is absolute, printable text."""
    if not isinstance(value, (str, Path)) or not str(value).startswith("/"):
        raise ValueError("should be an absolute path")
    if not str(value).isprintable():  # it goes into JSON, and into lines of logs
        raise ValueError("should be a path of printable UTF-8 text")
    return Path(value)


def _path(kind: type, value: object) -> Path:
    if kind is not Path:
        raise TypeError(f"no schema has a {kind}")
    return absolute(value)


_Apply = Callable[[Any, Schema], Any]


@cache
def _rules(kind: type[Schema]) -> tuple[tuple[str, _Apply], ...]:
    """Returns the fields that have rules, each with a function that applies them."""
    found = ((name, _applied(each)) for name, each in hints(kind).items())
    return tuple((name, apply) for name, apply in found if apply is not None)


def hints(kind: type[Schema]) -> dict[str, Any]:
    """Returns the annotations of a schema's fields."""
    found = get_type_hints(kind, include_extras=True)
    return {name: found[name] for name in kind.__struct_fields__}


def description(annotation: Any) -> str:
    """Returns the description in an annotation."""
    found = (each.description for each in get_args(annotation) if isinstance(each, Meta))
    return next(filter(None, found), "")


def _applied(annotation: Any) -> _Apply | None:
    """Returns a function that applies all rules in an annotation; None if it has none."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        steps = [_applied(inner[0]), *(_by(each) for each in inner[1:] if isinstance(each, Rule))]
        return _in_turn([each for each in steps if each is not None])
    if origin is tuple:
        return _of_items(_applied(inner[0]))
    if origin is dict:
        return _of_entries(_applied(inner[0]), _applied(inner[1]))
    return _of_union(inner) if origin in (Union, UnionType) else None


def _by(rule: Rule) -> _Apply:
    if rule.beside:
        return lambda value, within: rule.check(value, getattr(within, rule.beside))
    return lambda value, _within: rule.check(value)


def _in_turn(steps: list[_Apply]) -> _Apply | None:
    if len(steps) < 2:
        return steps[0] if steps else None

    def apply(value: Any, within: Schema) -> Any:
        for step in steps:
            value = step(value, within)
        return value

    return apply


def _of_items(item: _Apply | None) -> _Apply | None:
    return item and (lambda values, within: tuple(item(each, within) for each in values))


def _of_entries(key: _Apply | None, value: _Apply | None) -> _Apply | None:
    if key is None and value is None:
        return None

    def apply(entries: dict[Any, Any], within: Schema) -> dict[Any, Any]:
        return {
            key(name, within) if key else name: value(each, within) if value else each
            for name, each in entries.items()
        }

    return apply


def _of_union(members: tuple[Any, ...]) -> _Apply | None:
    """For an optional value, or one of several types: the rules of the type that it has."""
    found = [(_base(each), apply) for each in members if (apply := _applied(each)) is not None]
    if not found:
        return None

    def apply_one(value: Any, within: Schema) -> Any:
        fitting = (apply for base, apply in found if isinstance(value, base))
        return next((apply(value, within) for apply in fitting), value)

    return apply_one


def _base(annotation: Any) -> Any:
    """The class behind an annotation."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) or annotation
