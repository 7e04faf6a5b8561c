"""profile and its actions."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.magictl import Type, magictl
from tests.support.rest import ALPHA, PROFILE
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_profile_ls(type_in: Type) -> None:
    assert type_in("profile ls").stdout == "test (active)\n"


def test_profiles(magid: Running, type_in: Type) -> None:
    (magid.profiles / "other.yaml").write_text(PROFILE)
    assert type_in("profile activate other").stdout.startswith("Profile 'other' activated\n")
    assert type_in("profile ls").stdout == "other (active)\ntest\n"
    assert "it is the active one" in type_in("profile delete other --yes", 1).stderr
    type_in("profile activate test")
    assert type_in("profile delete other", 2).stderr.splitlines() == [
        "magictl: cannot delete profile 'other'",
        "standard input is not a terminal",
        "try: the same with --yes",
    ]
    assert type_in("profile delete other --yes").stdout == "Profile 'other' deleted successfully\n"


BAD = "name: Night\nenabled_models: ['*']\ntier_config:\n  - name: fast\n    max_scor: 3\n"
EDITOR = """\
#!/usr/bin/python3
import pathlib, sys
path = pathlib.Path(sys.argv[1])
text = path.read_text()
{change}
path.write_text(text)
"""


def test_a_profile_from_a_file_and_from_standard_input(
    magid: Running, type_in: Type, tmp_path: Path
) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("name: Night\nenabled_models: [alpha*]\n")
    assert type_in(f"profile validate {file}").stdout == f"{file} is a valid profile, 'Night'\n"
    done = type_in(f"profile create {file}")
    assert done.stdout == "Profile 'Night' created successfully\n"
    assert done.stderr == "try: magictl profile activate night\n"
    assert "try: magictl profile edit night" in type_in(f"profile create {file}", 1).stderr
    shown = type_in("profile show night").stdout
    assert "name: Night\n" in shown
    assert "enabled_models:\n- alpha*\n" in shown
    again = magictl("profile", "create", "-", url=magid.url,
                    typed=json.dumps({"name": "Day", "enabledModels": ["beta*"]}))  # fmt: skip
    assert again.returncode == 0, again
    type_in("profile delete night --yes")
    type_in("profile delete day --yes")


def test_what_would_stop_is_shown_and_nothing_changed(magid: Running, type_in: Type) -> None:
    (magid.profiles / "beta.yaml").write_text("name: Beta\nenabled_models: [beta*, alhpa*]\n")
    try:
        done = type_in("profile activate beta --dry-run")
        message, stop, *_ = done.stdout.splitlines()
        assert message == "Nothing was changed"
        assert stop.startswith("- llama-server@")
        assert ALPHA in stop
        assert done.stderr.startswith("warning: 'alhpa*' matches no model; did you mean")
        assert type_in("profile ls").stdout.splitlines()[-1] == "test (active)"
        assert len(type_in("stop --all --dry-run").stdout.splitlines()) == 2
    finally:
        (magid.profiles / "beta.yaml").unlink()
    assert len(type_in("ps -q").stdout.splitlines()) == 2


def test_validate_says_line_and_field(type_in: Type, tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(BAD)
    for verb in ("validate", "create"):
        assert type_in(f"profile {verb} {file}", 1).stderr.splitlines() == [
            f"magictl: cannot use {file}",
            "line 5: tier_config[0].max_scor is not known; did you mean 'max_score'?",
            "try: man 5 magi-profile",
        ]
    good = tmp_path / "good.yaml"
    good.write_text("name: Good\n")
    done = type_in(f"profile validate {file} {good} {tmp_path}/none", 1)
    assert done.stdout == f"{good} is a valid profile, 'Good'\n"
    assert f"cannot read {tmp_path}/none\nNo such file or directory" in done.stderr


@pytest.fixture
def night(magid: Running) -> Iterator[Path]:
    """The file of a profile."""
    file = magid.profiles / "night.yaml"
    file.write_text(PROFILE)
    yield file
    file.unlink()


def editing(folder: Path, change: str) -> dict[str, str]:
    program = folder / "editor"
    program.write_text(EDITOR.format(change=change))
    program.chmod(0o755)
    return {"EDITOR": str(program), "TMPDIR": str(folder)}


def test_edit(magid: Running, night: Path, tmp_path: Path) -> None:
    renamed = editing(tmp_path, "text = text.replace('two that run', 'one of them')")
    done = magictl("profile", "edit", "night", url=magid.url, **renamed)
    assert (done.returncode, done.stdout) == (0, "Profile 'night' replaced successfully\n")
    assert night.read_text() == PROFILE.replace("two that run", "one of them")
    done = magictl("profile", "edit", "night", url=magid.url, **editing(tmp_path, "pass"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Nothing was changed\n")
    assert [path.name for path in tmp_path.iterdir()] == ["editor"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("text += 'nonsense: 1\\n'", "nonsense is not known; known are"),
        (
            "pathlib.Path({file!r}).write_text('name: Other\\n'); text += '# mine\\n'",
            "it has changed since you read it",
        ),
    ],
)
def test_edit_loses_nothing(
    magid: Running, night: Path, tmp_path: Path, change: str, said: str
) -> None:
    options = editing(tmp_path, change.format(file=str(night)))
    done = magictl("profile", "edit", "night", url=magid.url, **options)
    assert done.returncode == 1
    assert said in done.stderr
    kept = Path(done.stderr.splitlines()[-1].removeprefix("your text is in "))
    assert "two that run" in kept.read_text()
    assert night.read_text() in (PROFILE, "name: Other\n")


def test_edit_without_a_working_editor(magid: Running) -> None:
    for editor, said in (("false", "false ended with status 1"), ("/none", "No such file")):
        done = magictl("profile", "edit", "test", url=magid.url, EDITOR=editor)
        assert done.returncode == 1
        assert said in done.stderr
