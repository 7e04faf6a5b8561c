"""Bodies of requests, as pydantic models. The routes name them.

Imported late, with the first body and for the document: pydantic takes longer than all the rest of
a start.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from msgspec.structs import fields
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic.alias_generators import to_camel

from magid.api.schemas.models import JSON_OBJECT
from magid.auth import tokens
from magid.auth.tokens import MAX_LIMIT, MAX_MODELS, NAME, Scope
from magid.catalog import profile
from magid.discovery.tiers import Tier
from magid.files import explanation
from magid.gateway.accounting.text_capture import MAX_S
from magid.llama.runtime_settings import SETTINGS


class Body(BaseModel):
    """A request body: unknown keys and wrong types are refused."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        frozen=True,
        populate_by_name=False,
        defer_build=True,  # build at the first request of a kind
    )


class DownloadBody(Body):
    """`source` as `magictl pull` takes it; `draft`: also the small model that guesses ahead."""

    source: Annotated[str, Field(min_length=1, max_length=1000)]
    draft: bool = False


class ProfileTextBody(Body):
    """The YAML of a profile, which is written as it is: comments stay."""

    text: Annotated[str, Field(max_length=profile.MAX_TEXT)]


class TierBody(Body):
    tier: Annotated[Tier, Field(strict=False)] | None


class ThinkingBody(Body):
    thinking: bool | None


class EnabledBody(Body):
    enabled: bool | None


class PortBody(Body):
    port: Annotated[int, Field(ge=1, le=65535)] | None
    exchange: Annotated[
        bool,
        Field(description="Whether an enabled model that has the port, unpinned, takes this one's"),
    ] = False


class PortRangeBody(Body):
    start: Annotated[int, Field(ge=1024, le=65535)]
    end: Annotated[int, Field(ge=1024, le=65535)]


class SettingsChange(Body):
    """The body without its keys, which the table of run-time settings has."""

    def given(self) -> dict[str, Any]:
        """Returns the settings that are in the body, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}


_FIELDS: dict[str, Any] = {
    each.name: (
        each.annotation | None,
        Field(
            None,
            description=each.meaning,
            # What a form shows beside the field, which JSON Schema has no words for.
            json_schema_extra={
                "x-allowed": each.allowed,
                "x-unset": each.unset or each.show(each.default) or "none",
                "x-example": each.example,
            },
            **each.values.constraints,
        ),
    )
    for each in SETTINGS
}
SettingsBody: type[SettingsChange] = create_model(
    "SettingsBody",
    __base__=SettingsChange,
    __doc__="Every key may be left out (unchanged) or null (back to the default).",
    **_FIELDS,
)


class ExplainBody(Body):
    """A request's body as the gateway takes it, and the endpoint that it is meant for."""

    request: JSON_OBJECT
    endpoint: str = "/v1/chat/completions"


_Limit = Annotated[str, Field(strict=True, min_length=1, max_length=200)]


_Count = Annotated[int, Field(strict=True, ge=1, le=MAX_LIMIT)] | None
_LIMITS: dict[str, Any] = {each.name: (_Count, None) for each in fields(tokens.TokenLimits)}
TokenLimits: type[BaseModel] = create_model(
    "TokenLimits",
    __config__=ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True,
        defer_build=True,
    ),
    __doc__="What a token may ask of the gateway; null: as much as it likes.",
    **_LIMITS,
)  # fmt: skip


class TokenBody(Body):
    """A token to make. `models` limits it to these ids, globs, aliases and tiers."""

    name: Annotated[str, Field(pattern=rf"^{NAME}$")]
    scopes: Annotated[tuple[Scope, ...], Field(strict=False, min_length=1, max_length=3)]
    models: (
        Annotated[tuple[_Limit, ...], Field(strict=False, min_length=1, max_length=MAX_MODELS)]
        | None
    ) = None
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None
    limits: TokenLimits | None = None


class CaptureBody(Body):
    """How long texts are captured, from now on."""

    seconds: Annotated[int, Field(ge=10, le=MAX_S)]


class SessionBody(Body):
    """A sign-in: with a token, or with the secret of a link that `magictl open` has made."""

    token: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    link: Annotated[str, Field(min_length=1, max_length=512)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.token is None) == (self.link is None):
            raise ValueError("give either token or link")
        return self


class LinkBody(Body):
    """`token`: the name of the token whose rights the link gives; null: all rights."""

    token: Annotated[str, Field(max_length=63)] | None = None


MODELS: Final[Mapping[str, type[BaseModel]]] = {
    each.__name__: each
    for each in (
        DownloadBody,
        ProfileTextBody,
        TierBody,
        ThinkingBody,
        EnabledBody,
        PortBody,
        PortRangeBody,
        SettingsBody,
        ExplainBody,
        TokenBody,
        SessionBody,
        LinkBody,
        CaptureBody,
        TokenLimits,
        explanation.model_of(profile.Profile),
    )
}
