"""Profiles: which models should run, and how requests are spread over them.

A profile is a small YAML file that people edit while magid runs, so nothing about a file is
trusted for longer than the file itself stays as it is. Its name is a slug: no path can come of it.
"""

import fnmatch
import hashlib
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import PydanticCustomError

from magid.discovery.naming import spellings
from magid.discovery.tiers import Tier
from magid.errors import (
    CannotWrite,
    Conflict,
    InvalidInput,
    InvalidProfile,
    ProfileExists,
    ProfileNotFound,
    StaleRevision,
    TooLarge,
)
from magid.files import strict_yaml
from magid.files.atomic import (
    REAL,
    FileSystem,
    cannot_write,
    discard,
    discard_leftovers,
    sync_directory,
    write_temporary,
)
from magid.files.strict_yaml import YamlError

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SELECTOR = re.compile(r"[a-z0-9_*?\[\]!-]{1,200}")
_TIER_PREFIX = "tier:"
_SUFFIX = ".yaml"
# A file that changed so short ago may change again within one tick of the clock that stamps it.
_SETTLED_NS = 2_000_000_000


# -- the profile ---------------------------------------------------------------------------------


def _selector(text: str) -> str:
    if text.startswith(_TIER_PREFIX):
        if text.removeprefix(_TIER_PREFIX) not in list(Tier):
            raise _refused(f"should be one of {', '.join(_TIER_PREFIX + tier for tier in Tier)}")
    elif not _SELECTOR.fullmatch(text):
        raise _refused("should be a model id, a pattern of ids with *, ? and [...], or tier:NAME")
    return text


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise _refused("should be text on one line")
    return text


def _no_controls(text: str) -> str:
    if not text.replace("\n", "").isprintable():
        raise _refused("should be text without control characters")
    return text


def _refused(reason: str) -> PydanticCustomError:
    return PydanticCustomError("profile", "{reason}", {"reason": reason})


Line = Annotated[StrictStr, Field(max_length=100), AfterValidator(_one_line)]
Text = Annotated[StrictStr, Field(max_length=1000), AfterValidator(_no_controls)]
Alias = Annotated[StrictStr, Field(max_length=200), AfterValidator(_one_line)]
WholeSeconds = Annotated[StrictInt, Field(ge=0, le=86_400)]


class _Part(BaseModel):
    # snake_case in files, camelCase in the API, and either is understood in both.
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class TierConfig(_Part):
    """Up to which complexity a request goes to a tier, and what to expect of it."""

    name: Tier
    max_score: Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)]
    expected_time_seconds: WholeSeconds = 5
    description: Text = ""


class TwoStage(_Part):
    """Let one tier draft and another one refine."""

    enabled: StrictBool = False
    stage1_tier: Tier = Tier.BALANCED
    stage2_tier: Tier = Tier.POWERFUL
    stage1_max_tokens: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 500


class Strategy(StrEnum):
    """How one of several servers that could answer is chosen."""

    ROUND_ROBIN = "round_robin"
    LEAST_OUTSTANDING = "least_outstanding"
    PREFIX_AFFINITY = "prefix_affinity"


class LoadBalancing(_Part):
    """How requests for one model are spread over its servers."""

    enabled: StrictBool = True
    strategy: Strategy = Strategy.ROUND_ROBIN
    health_check_interval: Annotated[WholeSeconds, Field(ge=1)] = 30  # seconds
    # Shares of requests, by selector as in enabled_models; 1 for what none of them means.
    weights: Annotated[
        dict[
            Annotated[StrictStr, AfterValidator(_selector)],
            Annotated[StrictInt, Field(ge=1, le=1000)],
        ],
        Field(max_length=1000),
    ] = {}


def _rising(tiers: tuple[TierConfig, ...]) -> tuple[TierConfig, ...]:
    if len({tier.name for tier in tiers}) != len(tiers):
        raise _refused("should have each tier at most once")
    if any(low.max_score >= high.max_score for low, high in pairwise(tiers)):
        raise _refused("should have tiers in the order of rising max_score")
    return tiers


DEFAULT_TIERS = (
    TierConfig(
        name=Tier.FAST,
        max_score=3,
        expected_time_seconds=2,
        description="Fast processing for simple queries",
    ),
    TierConfig(
        name=Tier.BALANCED,
        max_score=7,
        expected_time_seconds=5,
        description="Balanced speed and depth for most queries",
    ),
    TierConfig(
        name=Tier.POWERFUL,
        max_score=10,
        expected_time_seconds=15,
        description="Deep reasoning for complex queries",
    ),
)
"""Scores run from 0 to 10; the first row is the documented example."""


class Profile(_Part):
    """What should run. `enabled_models` has ids, patterns of ids, and `tier:NAME`."""

    name: Line
    description: Text = ""
    enabled_models: Annotated[
        tuple[Annotated[StrictStr, AfterValidator(_selector)], ...], Field(max_length=1000)
    ] = ()
    tier_config: Annotated[tuple[TierConfig, ...], AfterValidator(_rising)] = DEFAULT_TIERS
    two_stage: TwoStage = TwoStage()
    load_balancing: LoadBalancing = LoadBalancing()
    # More names for the gateway: alias -> model id, tier or auto.
    aliases: Annotated[dict[Alias, Alias], Field(max_length=1000)] = {}


def matches(profile: Profile, model_id: str, tier: Tier) -> bool:
    """Whether the profile enables this model. Pure. Sizes count in either spelling (8b, 8p0b)."""
    return any(selects(selector, model_id, tier) for selector in profile.enabled_models)


def selects(selector: str, model_id: str, tier: Tier) -> bool:
    """Whether one entry of `enabled_models` means this model. Pure."""
    if selector.startswith(_TIER_PREFIX):
        return selector == _TIER_PREFIX + tier
    return any(fnmatch.fnmatchcase(spelling, selector) for spelling in spellings(model_id))


# -- names ---------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """The file name, without `.yaml`, of a profile of this name: "Fast Only" -> "fast-only".

    Pure. Raises InvalidInput if nothing of the name can be in a file name.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")
    if not text:
        raise InvalidInput(
            f"cannot make a file name of {name!r}: it has none of a-z and 0-9; choose another name",
            field="name",
        )
    return text


def check_slug(text: str) -> str:
    """The same text if it can name a profile, else ProfileNotFound. Pure."""
    if not _SLUG.fullmatch(text):
        raise ProfileNotFound(
            f"cannot find profile {text[:80]!r}: names consist of a-z, 0-9 and -; "
            "GET /api/models/profiles lists them",
            profileName=text[:80],
        )
    return text


# -- the folder ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What a file held when it was last read."""

    key: tuple[int, ...]  # device, inode, size and times
    settled: bool  # the key says enough; otherwise the content has to be read again
    revision: str
    profile: Profile | None
    problem: str  # why there is no profile


class ProfileDir:
    """The profiles in one folder. All of it blocks for the time of a few small file accesses.

    Those in `shipped`, a folder that is never written to, are profiles too where `path` has none
    of the same name: so a replaced one is kept when magid is upgraded, and the shipped one comes
    back when it is deleted.

    Reading never takes longer than a `stat` while a file stays as it is. Writing is for one
    caller at a time; what is written meanwhile by an editor is found out by its revision.
    """

    def __init__(
        self, path: Path, shipped: Path | None = None, *, files: FileSystem = REAL
    ) -> None:
        self.path = path
        self._shipped = shipped
        self._files = files
        self._known: dict[str, _Known] = {}

    def list(self) -> list[str]:
        """The names of all profiles, broken ones too, sorted. Never fails: no folder, no names."""
        folders = (self.path,) if self._shipped is None else (self.path, self._shipped)
        return sorted({name for folder in folders for name in _names(folder)})

    def get(self, name: str) -> Profile:
        """Raises ProfileNotFound, or InvalidProfile with file, line and key."""
        known = self._look(name)
        if known.profile is None:
            raise InvalidProfile(known.problem, profileName=name)
        return known.profile

    def revision(self, name: str) -> str:
        """A text that changes with the content of the file; empty if there is no such profile."""
        try:
            return self._look(name).revision
        except ProfileNotFound:
            return ""

    def create(self, profile: Profile) -> tuple[str, Path]:
        """Write a new profile; its name and the path of its file.

        Raises ProfileExists, InvalidInput if the name makes no file name, TooLarge, CannotWrite.
        """
        name = slug(profile.name)
        path = self._path(name)
        if self._is_shipped(name) and not os.path.lexists(path):
            raise _exists(name, self._place(name))
        content = _to_yaml(profile)
        with self._writing(path):
            temporary = write_temporary(path, content, mode=0o644, files=self._files)
            try:
                self._files.link(temporary, path)  # unlike a rename, it never replaces
            except FileExistsError:
                raise _exists(name, path) from None
            finally:
                discard(temporary, self._files)
            sync_directory(self.path, self._files)
        return name, path

    def replace(self, name: str, profile: Profile, expected_revision: str | None) -> None:
        """Write other content to an existing profile, broken or not; its file name stays.

        Raises ProfileNotFound, StaleRevision if the present revision is not the expected one,
        TooLarge, CannotWrite.
        """
        content = _to_yaml(profile)
        present = self._look(name).revision
        if expected_revision not in (None, present):
            raise StaleRevision(
                f"cannot replace profile {name!r}: it has changed since you read it; read it again",
                profileName=name,
            )
        path = self._path(name)
        if path.is_symlink():
            raise CannotWrite(
                f"cannot write {path}: it is a symbolic link; edit the file that it points to",
                path=str(path),
            )
        with self._writing(path):
            temporary = write_temporary(path, content, mode=0o644, files=self._files)
            try:
                self._files.rename(temporary, path)
            except BaseException:
                discard(temporary, self._files)
                raise
            sync_directory(self.path, self._files)

    def delete(self, name: str) -> None:
        """Remove the file; of a link only the link.

        Raises ProfileNotFound, CannotWrite, Conflict for one that is only shipped.
        """
        path = self._path(name)
        if self._is_shipped(name) and not os.path.lexists(path):
            raise Conflict(
                f"cannot delete profile {name!r}: it comes with magid; PUT "
                f"/api/models/profiles/{name} to put another one in its place",
                profileName=name,
            )
        with self._writing(path):
            try:
                self._files.unlink(path)
            except FileNotFoundError:
                raise _not_found(name) from None
            sync_directory(self.path, self._files)

    def _path(self, name: str) -> Path:
        return self.path / (check_slug(name) + _SUFFIX)

    def _place(self, name: str) -> Path:
        """Where it is read from."""
        path = self._path(name)
        if self._is_shipped(name) and not os.path.lexists(path):
            assert self._shipped is not None
            return self._shipped / path.name
        return path

    def _is_shipped(self, name: str) -> bool:
        return self._shipped is not None and (self._shipped / (name + _SUFFIX)).is_file()

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        discard_leftovers(self.path, _SUFFIX, self._files)
        try:
            yield
        except OSError as error:
            raise cannot_write(path, error) from None

    def _look(self, name: str) -> _Known:
        path = self._place(name)
        known = self._known.get(name)
        if known is not None and known.settled and _key_of(path) == known.key:
            return known
        known = _read(path, name, known)
        self._known[name] = known
        return known


def _names(folder: Path) -> Iterator[str]:
    """The profiles in this folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if _is_file(entry)]
    except OSError:
        return
    for name in found:
        stem = name.removesuffix(_SUFFIX)
        if name.endswith(_SUFFIX) and _SLUG.fullmatch(stem):
            yield stem


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _key_of(path: Path) -> tuple[int, ...] | None:
    try:
        return _key(path.stat())
    except OSError:
        return None


def _key(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read(path: Path, name: str, before: _Known | None) -> _Known:
    """Read the file; one whose content is as `before` is not parsed again."""
    try:
        content, status = strict_yaml.read_bytes(path)
    except FileNotFoundError:
        raise _not_found(name) from None
    except OSError as error:
        return _unread(f"cannot read {path}: {error.strerror}")
    except YamlError as error:
        return _unread(str(error))
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
    revision = _hash(content)
    if before is not None and before.revision == revision:
        return replace(before, key=_key(status), settled=settled)
    try:
        return _Known(_key(status), settled, revision, parse(content, str(path)), "")
    except InvalidProfile as error:
        return _Known(_key(status), settled, revision, None, error.message)


def _unread(reason: str) -> _Known:
    return _Known((), False, _hash(reason.encode()), None, reason)  # a record


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _exists(name: str, path: Path) -> ProfileExists:
    return ProfileExists(
        f"cannot create profile {name!r}: {path} exists already; choose another name, "
        f"or PUT /api/models/profiles/{name} to replace it",
        profileName=name,
    )


def _not_found(name: str) -> ProfileNotFound:
    return ProfileNotFound(
        f"cannot find profile {name!r}; GET /api/models/profiles lists them", profileName=name
    )


def parse(content: bytes, source: str) -> Profile:
    """A profile from YAML. Pure. Raises InvalidProfile with `source`, line and key."""
    try:
        document = strict_yaml.loads(content, source)
    except YamlError as error:
        raise InvalidProfile(str(error)) from None
    try:
        return Profile.model_validate(document.data)
    except ValidationError as error:
        problem = strict_yaml.first_problem(error, Profile)
        if problem.path not in document.lines:  # what is missing, as a file has it
            snake = tuple(to_snake(p) if isinstance(p, str) else p for p in problem.path)
            problem = replace(problem, path=snake)
        line = document.line(problem.path)
        where = f"line {line}: " if line else ""
        raise InvalidProfile(f"cannot use {source}: {where}{problem}") from None


def _to_yaml(profile: Profile) -> bytes:
    data: dict[str, Any] = profile.model_dump(mode="json")
    try:
        return strict_yaml.dumps(data).encode()
    except YamlError as error:
        raise TooLarge(f"cannot write profile {profile.name!r}: {error.reason}") from None
