"""Schemas as pydantic models, made of the same annotations: to say what is wrong, and for OpenAPI.

Imported late, for data that `files.schema` has refused, for bodies of requests and for the
document of the API.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from magid.files.schema import (
    Fault,
    Location,
    Mismatch,
    Rule,
    S,
    Schema,
    absolute,
    api_name,
    hints,
)

# -- the models ----------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class _ApiModel(_Model):
    model_config = ConfigDict(alias_generator=api_name, populate_by_name=True)


@cache
def model_of(kind: type[Schema]) -> type[BaseModel]:
    """Returns a pydantic model with the rules, names and descriptions of this schema."""
    made: dict[str, Any] = {}
    for each in msgspec.structs.fields(kind):
        annotation = hints(kind)[each.name]
        made[each.name] = (_typed(annotation), Field(**_default(each)))
    base = _ApiModel if kind.has_api_names else _Model
    model = create_model(
        kind.__name__, __base__=base, __cls_kwargs__={"title": kind.api_title or kind.__name__},
        __doc__=kind.__doc__, __module__=kind.__module__, **made,
    )  # fmt: skip
    _schemas[model] = kind
    return model


_schemas: dict[type[BaseModel], type[Schema]] = {}  # of the models that were made


def _default(field: FieldInfo) -> dict[str, Any]:
    if field.default is not msgspec.NODEFAULT:
        return {"default": _as_model(field.default)}
    if field.default_factory is not msgspec.NODEFAULT:
        return {"default": field.default_factory()}
    return {}


def _as_model(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_model, value))
    if not isinstance(value, Schema):
        return value
    given = {name: _as_model(getattr(value, name)) for name in value.__struct_fields__}
    return model_of(type(value))(**given)


_STRICT = {
    bool: Field(strict=True),
    int: Field(strict=True),
    str: Field(strict=True),
    float: Field(strict=True, allow_inf_nan=False),
    Path: BeforeValidator(lambda value: value if isinstance(value, Path) else _by(absolute, value)),
}


def _typed(annotation: Any) -> Any:
    """Returns an annotation of a schema in pydantic's terms."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _STRICT:
        return Annotated[annotation, _STRICT[annotation]]
    if _is_schema(annotation):
        return model_of(annotation)
    if origin is Annotated:
        more = (_constraint(each) for each in inner[1:])
        return reduce(lambda kind, each: Annotated[kind, each], more, _typed(inner[0]))
    if origin in (Union, UnionType):
        mapping = next((each for each in inner if _is_schema(each)), None)
        if mapping is not None:
            return _text_or_mapping(next(each for each in inner if each is not mapping), mapping)
        return reduce(or_, map(_typed, inner))
    if origin in (tuple, dict):
        return origin[tuple(each if each is ... else _typed(each) for each in inner)]
    return annotation


def _is_schema(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Schema)


# Parts of an error's path that say which of two types was meant. No key can be one of them.
_TEXT, _MAPPING = "\0text", "\0mapping"


def _text_or_mapping(text: Any, mapping: type[Schema]) -> Any:
    """Only the type that a value has says what is wrong with it."""

    def kind(value: object) -> str | None:
        if isinstance(value, str):
            return _TEXT
        return _MAPPING if isinstance(value, (dict, BaseModel)) else None

    tagged = ((_typed(text), _TEXT), (model_of(mapping), _MAPPING))
    either = reduce(or_, (Annotated[each, Tag(tag)] for each, tag in tagged))
    return Annotated[either, Discriminator(kind, "refused", "should be text or a mapping")]


_BOUNDS = ("gt", "ge", "lt", "le", "min_length", "max_length", "pattern", "description")


def _constraint(given: Meta | Rule) -> Any:
    if isinstance(given, Meta):
        bounds = {name: getattr(given, name) for name in _BOUNDS}
        return Field(**{name: each for name, each in bounds.items() if each is not None})
    check, beside = given.check, given.beside
    if not beside:
        return AfterValidator(lambda value: _by(check, value))

    def after(value: Any, info: ValidationInfo) -> Any:
        if beside not in info.data:  # it is wrong itself
            return value
        return _by(check, value, info.data[beside])

    return AfterValidator(after)


def _by(check: Callable[..., Any], *values: Any) -> Any:
    try:
        return check(*values)
    except Mismatch as error:  # of single keys
        faults = [
            InitErrorDetails(type=_refused(each.reason), loc=each.path, input=None)
            for each in error.faults
        ]
        raise ValidationError.from_exception_data("value", faults) from None
    except ValueError as error:
        raise _refused(str(error)) from None


def _refused(reason: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


# -- values --------------------------------------------------------------------------------------


def read(data: object, kind: type[S]) -> S:
    """Returns the data as a value of this schema, checked by pydantic. Raises Mismatch."""
    model = model_of(kind)
    try:
        return cast(S, value_of(model.model_validate(data)))
    except ValidationError as error:
        raise Mismatch(_problems(error, model)) from None


def value_of(model: BaseModel) -> Schema:
    """Returns the schema's value for an instance of the model that was made of it."""
    given = {name: _as_value(getattr(model, name)) for name in model.model_fields_set}
    return _schemas[type(model)](**given)


def _as_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_value, value))
    if isinstance(value, dict):
        return {name: _as_value(each) for name, each in value.items()}
    return value_of(value) if isinstance(value, BaseModel) else value


# -- the words -----------------------------------------------------------------------------------

# Pydantic's own texts use Python's names for these types.
_WORDING = {
    "dict_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "dataclass_type": "should be a mapping of keys to values",
    "tuple_type": "should be a list",
    "string_unicode": "should be text in UTF-8",
}


MOST_ERRORS = 100  # in words, each of which takes up to a millisecond

# Pydantic's types of errors for unknown keys, of a model and of a dataclass.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_OF_KEY = "[key]"  # after the path, if the key is wrong and not its value


def _problems(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Returns the first errors, unknown keys first: a missing key is often a misspelt one."""
    found = error.errors(include_url=False)
    found.sort(key=lambda each: each["type"] not in _UNKNOWN)  # stable
    return [_problem(each, model) for each in found[:MOST_ERRORS]]


def location_of(found: ErrorDetails) -> Location:
    """Returns where the error is, without the words that pydantic and these models add."""
    path = tuple(part for part in found["loc"] if part not in (_TEXT, _MAPPING))
    return path[:-1] if path[-2:] == (found["input"], _OF_KEY) else path


def _problem(found: ErrorDetails, model: type[BaseModel]) -> Fault:
    kind, path = found["type"], location_of(found)
    if kind in _UNKNOWN:
        return Fault(path, _unknown_key(path, model))
    if kind == "missing":
        return Fault(path, "is missing; add it")
    reason = _WORDING.get(kind) or re.sub(r"^\w+ (?=should)", "", found["msg"])
    reason = reason.replace(" after validation", "")
    value = found["input"]
    says_what = reason.startswith("should") and ", not " not in reason
    if says_what and isinstance(value, (str, int, float)):
        shown = repr(value)
        reason += f", not {shown}" if len(shown) <= 60 else ""
    return Fault(path, reason)


def _unknown_key(path: Location, model: type[BaseModel]) -> str:
    known = sorted(_keys_at(path[:-1], model))
    if path[-1] in known:
        return "is given in two spellings; remove one"
    near = get_close_matches(str(path[-1]), known, n=1)
    if near:
        return f"is not known; did you mean '{near[0]}'?"
    return f"is not known; known are {', '.join(known)}"


def _keys_at(path: Location, model: type[BaseModel]) -> Iterable[str]:
    """Returns the keys that the model, or a dataclass in it, has at this path."""
    for part in path:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        for kind in () if field is None else _classes(field.annotation):
            if issubclass(kind, BaseModel):
                model = kind
            elif is_dataclass(kind):
                return (each.name for each in fields(kind))
    return model.model_fields


def _classes(annotation: Any) -> Iterator[type]:
    """All classes in an annotation."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)
