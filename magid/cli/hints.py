"""Translates REST calls in magid's messages to the equivalent commands of magictl."""

import re

_ENABLED = r"enabled with \{\"enabled\": true\}"
_NAME = r"(?P<name>[^\s/;,]+)"
_CALLS = tuple(
    (re.compile(pattern), command)
    for pattern, command in (
        (rf"PUT /api/models/{_NAME}/{_ENABLED}", r"magictl enable \g<name>"),
        (rf"PUT /api/models/{_NAME}/port\b", r"magictl set \g<name> port=PORT"),
        (rf"PUT /api/models/profiles/{_NAME}", r"magictl profile edit \g<name>"),
        (rf"GET /api/models/servers/{_NAME}/logs", r"magictl logs \g<name>"),
        (rf"POST /api/models/servers/{_NAME}/(?P<verb>start|stop)", r"magictl \g<verb> \g<name>"),
        (r"GET /api/models/servers\b", "magictl ps -a"),
        (r"GET /api/models/profiles\b", "magictl profile ls"),
        (r"GET (/api/models/registry|/v1/models|/models)\b", "magictl ls"),
        (r"GET /api/models/status\b", "magictl status"),
        (r"POST /api/models/(?P<verb>rescan|apply)\b", r"magictl \g<verb>"),
        (r'POST /api/library/downloads \{"source": "(?P<name>[^"]+)"\}', r"magictl pull \g<name>"),
        (r"GET /api/requests\b", "magictl top"),
        (r"(?P<by>by )?DELETE /api/requests\b(/\S+)?", r"\g<by>another client"),
        (r"POST /api/capture\b", "magictl capture start"),
        (r"GET /api/tokens\b", "magictl token ls"),
        (r"GET /api/events\b", "magictl events"),
    )
)  # fmt: skip


def translated(text: str) -> str:
    """Returns the text with REST calls replaced by commands of magictl. Pure."""
    for call, command in _CALLS:
        text = call.sub(command, text)
    return text
