"""A real Prometheus scrapes a daemon over TLS, by the configuration that we ship for it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.test_tls import make_pair
from tests.support import fleets, prometheus
from tests.support.rest import Parts

pytestmark = pytest.mark.slow

EXAMPLE = prometheus.ROOT / "packaging/prometheus/prometheus-tls.yml"


def shipped(folder: Path, port: int, certificate: Path) -> dict[str, Any]:
    """The file as it is, for this daemon, and with no minutes between two looks."""
    text = EXAMPLE.read_text().replace("gpu1.example.org:8000", f"127.0.0.1:{port}")
    text = text.replace("/etc/prometheus/magi.pem", str(certificate))
    text = text.replace("/etc/prometheus/magi.token", str(folder / "magi.token"))
    config: dict[str, Any] = yaml.safe_load(text)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(EXAMPLE.with_name("magi.rules.yml"))]
    config["scrape_configs"][1]["http_sd_configs"][0]["refresh_interval"] = "1s"
    return config


def test_magid_and_its_servers_are_scraped_over_tls(parts: Parts, tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    running = parts.daemon(tmp_path / "daemon", f"tls_cert: {certificate}\ntls_key: {key}\n")
    running.listen_locally()
    (running.profiles / "test.yaml").write_text(fleets.PROFILE)
    fleets.write_small(running.models)
    running.use_tls(certificate)
    with running, running.client:
        running.wait_ready()
        token = running.make_token("prometheus", "read")
        (tmp_path / "magi.token").write_text(token)
        config = shipped(tmp_path, running.port, certificate)
        with prometheus.running(tmp_path, parts.free_port(), config) as server:
            server.wait_for("up == 1", lambda found: len(found) == 2)
        running.use_token(token)
        (target,) = running.get("/sd/prometheus")
        assert target["labels"]["__scheme__"] == "https"
