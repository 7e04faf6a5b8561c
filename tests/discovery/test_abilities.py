"""Abilities of models by their files, compared with those of a real llama-server."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from magid.discovery.abilities import ModelAbilities, has_place_for_tools
from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S, PATIENCE_S
from tests.support.scanning import only, scan

_TURNS = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
# In the ways of families of models, each with what llama-server 0.7.0 says of it.
TEMPLATES = {
    "ChatML": (_TURNS, False),
    "Hermes and Qwen": (ggufs.TOOL_TEMPLATE, True),
    "Kimi": ("{% if tools -%}<s>declare {{- tools | tojson -}}</s>{%- endif -%}" + _TURNS, True),
    "Llama 3.1": (
        "{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}"
        "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- if tools is not none %}<s>Functions\n{%- for t in tools %}{{- t | tojson(indent=4) }}"
        "{%- endfor %}</s>{%- endif %}" + _TURNS,
        True,
    ),
    "Mistral": (
        "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- for message in messages %}{%- if message['role'] == 'user' %}"
        "{%- if tools is not none and loop.last %}[AVAILABLE_TOOLS][{%- for tool in tools %}"
        "{{- tool.function | tojson }}{%- endfor %}][/AVAILABLE_TOOLS]{%- endif %}"
        "[INST]{{ message['content'] }}[/INST]{%- elif message['content'] is string %}"
        "{{ message['content'] }}</s>{%- endif %}{%- endfor %}",
        True,
    ),
    "in a macro": (
        "{% macro declare(items) %}{% for one in items %}{{ one.function.name }} {% endfor %}"
        "{% endmacro %}{% if tools %}{{ declare(items=tools) }}{% endif %}" + _TURNS,
        True,
    ),
    "DeepSeek R1, which shows calls and declares nothing": (
        "{% for message in messages %}{% if message['tool_calls'] %}{% for tool in "
        "message['tool_calls'] %}<call>{{ tool['function']['name'] }}</call>{% endfor %}"
        "{% else %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}",
        False,
    ),
    "those of a message": (
        "{% for message in messages %}{% if message.tools %}{{ message.tools }}{% endif %}"
        "<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}",
        False,
    ),
    "a word in comments and texts": (
        "{# tools are not for this model #}You have no tools: {{ 'no {{ tools }}, \\' tools' }}"
        '{{ "tools" }}{% set builtin_tools = [] %}' + _TURNS,
        False,
    ),
    "only set": ("{% if true %}{% set tools = none %}{% endif %}" + _TURNS, False),
    "refused": ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + _TURNS, False),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_with_a_place_for_tools(name: str) -> None:
    template, expected = TEMPLATES[name]
    assert has_place_for_tools(template) is expected


def _props(llama_server: Path, model: Path, port: int, *more: str) -> Any:
    """Of a server that is started for this question alone."""
    command = [str(llama_server), "--model", str(model), "--port", str(port), "--offline", *more]
    with subprocess.Popen(
        [*command, "--ctx-size", "512", "--threads", "1", "--no-warmup"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + DEADLINE_S
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    answer = httpx.get(
                        f"http://127.0.0.1:{port}/props", timeout=PATIENCE_S, trust_env=False
                    )
                except httpx.TransportError:
                    continue
                if answer.status_code == 200:
                    return answer.json()
            raise AssertionError("the server does not answer")
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_llama_server_says_the_same_of_tools(
    name: str, llama_server: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    path = ggufs.write_chat_model(tmp_path / "a.gguf", template=TEMPLATES[name][0])
    props = _props(llama_server, path, free_port())
    able = only(scan(tmp_path)).abilities
    assert able.tools is props["chat_template_caps"]["supports_tools"]
    assert (able.images, able.audio) == (False, False)
    assert props["modalities"] == {"vision": False, "audio": False, "video": False}


@pytest.mark.slow
def test_llama_server_has_a_template_without_tools_for_a_model_without_one(
    llama_server: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    path = ggufs.write_chat_model(tmp_path / "a.gguf", template=None)
    props = _props(llama_server, path, free_port())
    assert only(scan(tmp_path)).abilities.tools is False
    assert props["chat_template_caps"]["supports_tools"] is False


@pytest.mark.parametrize("piece", ["{", "{%", "{{", "'", "\\'", "{{'", "{% if tools", "{#", '"\\'])
def test_the_cost_does_not_grow_with_the_square_of_the_template(piece: str) -> None:
    began = time.process_time()
    has_place_for_tools("{{" + piece * 200_000)
    has_place_for_tools("{{" + piece * 40_000 + "}}")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("flags", "images", "audio"),
    [
        ({"clip.has_vision_encoder": True}, True, False),
        ({"clip.has_vision_encoder": False, "clip.has_audio_encoder": True}, False, True),
        ({"clip.has_vision_encoder": True, "clip.has_audio_encoder": True}, True, True),
        ({"clip.has_vision_encoder": None}, None, None),
        ({"clip.has_vision_encoder": 1}, None, None),
    ],
)
def test_what_a_projector_is_for(
    tmp_path: Path, flags: dict[str, object], images: bool | None, audio: bool | None
) -> None:
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    ggufs.write_mmproj(tmp_path / "mmproj-Demo-1B.gguf", metadata=flags)
    able = only(scan(tmp_path)).abilities
    assert (able.images, able.audio) == (images, audio)


@pytest.mark.parametrize(
    ("names", "infill"),
    [
        (("fim_pre", "fim_suf", "fim_mid"), True),
        (("prefix", "suffix", "middle"), True),
        (("fim_pre", "suffix", "fim_mid"), True),
        (("fim_pre", "fim_suf"), None),
        ((), None),
    ],
)
def test_infill(tmp_path: Path, names: tuple[str, ...], infill: bool | None) -> None:
    tokens = {f"tokenizer.ggml.{name}_token_id": number for number, name in enumerate(names)}
    ggufs.write_chat_model(tmp_path / "a.gguf", metadata=tokens)
    assert only(scan(tmp_path)).abilities.infill is infill


def test_an_embedding_model_gives_vectors_and_nothing_else(tmp_path: Path) -> None:
    ggufs.write_embedding_model(
        tmp_path / "Vectors-Embedding.gguf",
        metadata={"tokenizer.chat_template": ggufs.TOOL_TEMPLATE},
    )
    assert only(scan(tmp_path)).abilities == ModelAbilities(
        tools=False, images=False, audio=False, infill=False, embedding_length=64
    )
