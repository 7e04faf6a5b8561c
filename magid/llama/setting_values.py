"""The types of run-time settings: checking, parsing and formatting of values. Pure.

Each type checks a value from JSON or a file (`check`), parses one that a person typed (`parse`),
and formats it so that it can be typed again (`show`). `check` and `parse` raise ValueError with a
reason that follows the setting's name: "should be ...", "must be ...".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol


class Values(Protocol):
    """The values of a setting."""

    @property
    def unit(self) -> str:
        """The unit, and how it may be written; "" without one."""

    @property
    def range(self) -> str:
        """What is allowed, as people write it: `64M to 1024T`."""

    @property
    def constraints(self) -> Mapping[str, Any]:
        """The constraints for pydantic, in the metadata of a dataclass field."""

    def check(self, value: object) -> Any: ...

    def parse(self, text: str) -> Any: ...

    def show(self, value: Any) -> str: ...


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of whole numbers. A person may type a number with one of the `suffixes`."""

    name: str = ""
    suffixes: tuple[tuple[str, int], ...] = ()  # rising
    is_shown: bool = False  # numbers are shown with the largest suffix that leaves them whole

    @property
    def either(self) -> str:
        """The suffixes for a person: `K, M, G or T`."""
        *others, last = (suffix for suffix, _ in self.suffixes)
        return f"{', '.join(others)} or {last}" if others else last


COUNT: Final = Unit()
TOKENS: Final = Unit("tokens", (("K", 2**10), ("M", 2**20)))
BYTES: Final = Unit(
    "bytes", (("K", 2**10), ("M", 2**20), ("G", 2**30), ("T", 2**40)), is_shown=True
)
PERCENT: Final = Unit("percent of one processor", (("%", 1),), is_shown=True)
SECONDS: Final = Unit("seconds", (("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)))
_NUMBER: Final = re.compile(r"(-?[0-9]{1,18})([A-Za-z%]*)")


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within bounds."""

    low: int
    high: int
    of: Unit = COUNT

    @property
    def unit(self) -> str:
        also = f", also with {self.of.either}" if self.of.suffixes else ""
        return self.of.name + also

    @property
    def range(self) -> str:
        return f"{self.show(self.low)} to {self.show(self.high)}"

    @property
    def constraints(self) -> Mapping[str, Any]:
        return {"strict": True, "ge": self.low, "le": self.high}

    def check(self, value: object) -> int:
        # To isinstance, a bool is an int.
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError(f"should be a whole number from {self.low} to {self.high}")
        return value

    def parse(self, text: str) -> int:
        found = _NUMBER.fullmatch(text)
        factor = self._factor(found[2]) if found else None
        if found is None or factor is None:
            suffixes = f", also with {self.of.either}" if self.of.suffixes else ""
            raise ValueError(f"must be a whole number{suffixes}")
        value = int(found[1]) * factor
        if value < self.low:
            raise ValueError(f"must be at least {self.show(self.low)}")
        if value > self.high:
            raise ValueError(f"must be at most {self.show(self.high)}")
        return value

    def show(self, value: int) -> str:
        for suffix, factor in reversed(self.of.suffixes if self.of.is_shown else ()):
            if value and value % factor == 0:
                return f"{value // factor}{suffix}"
        return str(value)

    def _factor(self, suffix: str) -> int | None:
        """What the number is multiplied by; None for a suffix that its unit does not have."""
        if self.of is BYTES and suffix.upper().endswith("B"):  # 24GB and 24GiB are 24G
            suffix = suffix[:-1].rstrip("iI") if len(suffix) > 1 else ""
        known = {name.upper(): factor for name, factor in self.of.suffixes}
        return known.get(suffix.upper()) if suffix else 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]
    unit: str = ""

    @property
    def range(self) -> str:
        return " or ".join(self.words)

    @property
    def constraints(self) -> Mapping[str, Any]:
        return {}  # pydantic reads it from the annotation, a Literal

    def check(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"should be {self.range}")
        return value

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(f"must be {self.range}")
        return text

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """Text of one form; `pattern` stands for the whole of it."""

    pattern: str
    says: str  # the same for a person
    unit: str = ""

    @property
    def range(self) -> str:
        return self.says

    @property
    def constraints(self) -> Mapping[str, Any]:
        return {"strict": True, "pattern": f"^(?:{self.pattern})$"}

    def check(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value, re.ASCII):
            raise ValueError(f"should be {self.says}")
        return value

    def parse(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise ValueError(f"must be {self.says}")
        return text

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of llama-server. `options` decides which of them are allowed."""

    most: int
    unit: str = ""

    @property
    def range(self) -> str:
        return f"at most {self.most} words, each option at most once"

    @property
    def constraints(self) -> Mapping[str, Any]:
        return {"strict": False, "max_length": self.most}  # JSON and YAML have lists, not tuples

    def check(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > self.most:
            raise ValueError(f"should be a list of at most {self.most}")
        if not all(isinstance(word, str) and _ARGUMENT.fullmatch(word) for word in value):
            raise ValueError("should be a list of arguments of printable ASCII")
        return tuple(value)

    def parse(self, text: str) -> tuple[str, ...]:
        import shlex  # late: it takes some milliseconds

        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise ValueError(f"must be words as a shell reads them: {error}") from None
        if len(words) > self.most:
            raise ValueError(f"must have at most {self.most} words")
        return words

    def show(self, value: tuple[str, ...]) -> str:
        return " ".join(value)


_ARGUMENT: Final = re.compile(r"[\x20-\x7e]{1,4096}")
