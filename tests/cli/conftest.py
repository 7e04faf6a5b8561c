"""A real daemon with real servers, for `magictl` as a person types it."""

from collections.abc import Iterator

import pytest

from tests.support.magictl import HOSTILE, Done, Type, magictl
from tests.support.rest import Parts, forget_overrides, write_models
from tests.support.running import Running


@pytest.fixture(scope="package")
def shared(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cli")
    running = parts.daemon(folder)
    running.environment["MAGI_BIND"] += f",unix:{folder}/magid.sock"
    write_models(running.models)
    (running.models / f"Broken{HOSTILE}.gguf").write_bytes(b"GGUF")
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    """A daemon with two servers that run; each test leaves it so, but for overrides."""
    yield shared
    forget_overrides(shared)


@pytest.fixture
def type_in(magid: Running) -> Type:
    """Type a command that has to succeed, or to end with `status`."""

    def type_in(line: str, status: int = 0) -> Done:
        done = magictl(*line.split(), url=magid.url)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done

    return type_in
