"""What `make run` tells to try, once the daemon is ready."""

from pathlib import Path

import pytest

from tests.lab.trees import load_program

first_steps = load_program("first_steps")
BASE, KEYS = "http://127.0.0.1:8000", Path(".run/state/keys")


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8000", BASE),
        ("0.0.0.0:8000, [::]:8000", BASE),
        ("[::]:8001", "http://[::1]:8001"),
        ("/run/magid.sock, 127.0.0.1:8000", BASE),
        ("/run/magid.sock", None),
    ],
)
def test_the_address(bind: str, url: str | None) -> None:
    assert first_steps.base_url(bind) == url


def test_a_chat_is_tried_where_there_is_a_server_for_it() -> None:
    assert "/v1/chat/completions" not in first_steps.commands(BASE, None, KEYS)
    assert f"cat {KEYS}/8081.key" in first_steps.commands(BASE, 8081, KEYS)


def test_a_machine_without_curl_is_told_how_to_get_it() -> None:
    assert "apt install" not in first_steps.commands(BASE, None, KEYS)
    without = first_steps.commands(BASE, None, KEYS, has_curl=False)
    assert without.endswith("curl is not installed: as root, run 'apt install curl'.")
