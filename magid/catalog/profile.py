"""Profiles: which models should run, and how requests are spread over them.

A profile is a small YAML file that people edit while magid runs, so nothing about a file is
trusted for longer than the file itself stays as it is. Its name is a slug: no path can come of it.
"""

import fnmatch
import re
import unicodedata
from dataclasses import replace
from enum import StrEnum
from itertools import pairwise
from typing import Annotated

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
from magid.errors import InvalidInput, InvalidProfile, ProfileNotFound
from magid.files import strict_yaml
from magid.files.strict_yaml import YamlError

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SELECTOR = re.compile(r"[a-z0-9_*?\[\]!-]{1,200}")
_TIER_PREFIX = "tier:"


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


class TierRange(_Part):
    """Up to which complexity a request goes to a tier, and what to expect of it."""

    model_config = ConfigDict(title="TierConfig")  # in the OpenAPI document

    name: Tier
    max_score: Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)]
    expected_time_seconds: WholeSeconds = 5
    description: Text = ""


class TwoStageRules(_Part):
    """Let one tier draft and another one refine."""

    model_config = ConfigDict(title="TwoStage")  # in the OpenAPI document

    enabled: StrictBool = False
    stage1_tier: Tier = Tier.BALANCED
    stage2_tier: Tier = Tier.POWERFUL
    stage1_max_tokens: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 500


class Strategy(StrEnum):
    """How one of several servers that could answer is chosen."""

    ROUND_ROBIN = "round_robin"
    LEAST_OUTSTANDING = "least_outstanding"
    PREFIX_AFFINITY = "prefix_affinity"


class LoadBalancingRules(_Part):
    """How requests for one model are spread over its servers."""

    model_config = ConfigDict(title="LoadBalancing")  # in the OpenAPI document

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


def _rising(tiers: tuple[TierRange, ...]) -> tuple[TierRange, ...]:
    if len({tier.name for tier in tiers}) != len(tiers):
        raise _refused("should have each tier at most once")
    if any(low.max_score >= high.max_score for low, high in pairwise(tiers)):
        raise _refused("should have tiers in the order of rising max_score")
    return tiers


DEFAULT_TIERS = (
    TierRange(
        name=Tier.FAST,
        max_score=3,
        expected_time_seconds=2,
        description="Fast processing for simple queries",
    ),
    TierRange(
        name=Tier.BALANCED,
        max_score=7,
        expected_time_seconds=5,
        description="Balanced speed and depth for most queries",
    ),
    TierRange(
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
    tier_config: Annotated[tuple[TierRange, ...], AfterValidator(_rising)] = DEFAULT_TIERS
    two_stage: TwoStageRules = TwoStageRules()
    load_balancing: LoadBalancingRules = LoadBalancingRules()
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
    if not SLUG.fullmatch(text):
        raise ProfileNotFound(
            f"cannot find profile {text[:80]!r}: names consist of a-z, 0-9 and -; "
            "GET /api/models/profiles lists them",
            profileName=text[:80],
        )
    return text


def profile_not_found(name: str) -> ProfileNotFound:
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
