"""Storage= as systemd finds it in journald.conf and its drop-ins."""

from pathlib import Path

import pytest

from magid.systemd.journald_conf import storage

MAIN = "usr/lib/systemd/journald.conf"
OWN = "etc/systemd/journald.conf"
DROP_IN = "usr/lib/systemd/journald.conf.d"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "auto"),
        ({OWN: "[Journal]\n#Storage=none\n"}, "auto"),
        ({OWN: "[Journal]\nStorage=none\n"}, "none"),
        ({OWN: "[Journal]\n Storage = volatile \n"}, "volatile"),
        ({MAIN: "[Journal]\nStorage=none\n", OWN: "[Journal]\n"}, "auto"),
        ({OWN: "Storage=none\n", f"{DROP_IN}/a.conf": "Storage=persistent\n"}, "persistent"),
        ({f"{DROP_IN}/a.conf": "Storage=none\n", f"{DROP_IN}/b.conf": "Storage=auto\n"}, "auto"),
        ({f"{DROP_IN}/a.conf": "Storage=none\n", "etc/systemd/journald.conf.d/a.conf": ""}, "auto"),
    ],
)
def test_storage(tmp_path: Path, files: dict[str, str], found: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert storage(tmp_path) == found
