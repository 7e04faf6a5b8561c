"""Manuals and completions: that they say all that the programs know, and that they work."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from magid import __main__
from magid.catalog.profile import LoadBalancingRules, Profile, TierRange, TwoStageRules
from magid.cli import main, setting_keys
from magid.config import loading
from magid.files.schema import Schema
from magid.llama.options import allowed_options
from tests.support.deadlines import DEADLINE_S

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
EPOCH = "1795000000"
MODELS = ("alpha_8b_fast", "beta_14b_powerful")
# Answers as the real one would, to whoever completes a command line.
MAGICTL = f"""\
#!/bin/sh
case "$*" in
'--request-timeout 1 ls -q') printf '{MODELS[0]}\\n{MODELS[1]}\\n' ;;
'--request-timeout 1 profile ls -q') printf 'everything\\nfast-only\\n' ;;
esac
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("manuals")
    made("manuals.py", folder)
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    made("completions.py", folder)
    return folder / "usr/share"


def made(program: str, folder: Path) -> None:
    subprocess.run(
        [sys.executable, str(PACKAGING / program), str(folder)],
        env={"SOURCE_DATE_EPOCH": EPOCH, "PATH": os.environ["PATH"]},
        check=True,
        timeout=DEADLINE_S,
    )


def plain(page: str) -> str:
    return page.replace("\\-", "-").replace("\\(aq", "'")


def test_the_pages(pages: dict[str, str]) -> None:
    assert sorted(pages) == ["magi-profile.5", "magictl.1", "magid.8", "magid.yaml.5"]
    for page in pages.values():
        assert "@" not in page.replace("llama\\-server@", "").replace("'llama", ""), page
        assert "2026" in page.splitlines()[0]


def test_every_setting_is_in_its_page(pages: dict[str, str]) -> None:
    page = plain(pages["magid.yaml.5"])
    for setting in loading.settings():
        assert f"\\fB{setting.key}\\fR" in page
        assert setting.allowed in page.replace("\n", " ")
        assert f"Default: {setting.default}.".replace('"', "\\(dq") in page.replace("\n", " ")
        if setting.variable:
            assert setting.variable in page


def test_every_key_of_set_is_in_its_page_with_all_that_there_is_to_know(
    pages: dict[str, str],
) -> None:
    page = re.sub(r"\s+", " ", plain(pages["magictl.1"])).partition("KEYS OF SET")[2]
    for setting in setting_keys.KEYS:
        row = page.partition(f"\\fB{setting.key}\\fR")[2].partition(".TP")[0]
        told = (setting.meaning, setting.allowed, setting_keys.default_of(setting))
        for text in (*told, setting_keys.like(setting), *setting.options[:1]):
            assert text in row
    for names in allowed_options():
        assert f"\\fB{names}\\fR" in page


def test_every_option_and_verb_is_in_its_page(pages: dict[str, str]) -> None:
    for page, parser in (("magid.8", __main__.parser()), ("magictl.1", main.parser())):
        for word in parser.format_help().replace(",", " ").split():
            if word.startswith("--") or word.strip("[]").startswith("--"):
                assert word.strip("[]") in plain(pages[page])
    for verb in ("status", "profile", "logs", "--follow", "--dry-run", "balanced"):
        assert verb in plain(pages["magictl.1"])


@pytest.mark.parametrize("kind", [Profile, TierRange, TwoStageRules, LoadBalancingRules])
def test_every_key_of_profiles_is_in_its_page(pages: dict[str, str], kind: type[Schema]) -> None:
    for key in kind.__struct_fields__:
        assert key in pages["magi-profile.5"], key


@pytest.mark.slow
def test_groff_has_nothing_to_say(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"],
            input=page, capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), name


# -- completions -------------------------------------------------------------------------------

FILES = "/usr/share/common-licenses"  # where the shells complete files
CASES = [
    ("magictl ti", {"tier"}),
    ("magictl tier ", set(MODELS)),
    ("magictl tier alpha_8b_fast b", {"balanced"}),
    ("magictl start alpha_8b_fast be", {"beta_14b_powerful"}),
    ("magictl profile activate ev", {"everything"}),
    ("magictl logs --fo", {"--follow"}),
    ("magictl status --", {"--json", "--help"}),
    ("magictl list -", {"-h", "--help", "--json", "-q", "--quiet", "--tier"}),
    ("magictl profile e", {"edit"}),
    ("magictl --no-color profile ed", {"edit"}),
    ("magictl show al", {"alpha_8b_fast"}),
    ("magictl profile show fa", {"fast-only"}),
    ("magictl profile validate Apa", {"Apache-2.0"}),
    ("magictl set al", {"alpha_8b_fast"}),
    ("magictl set alpha_8b_fast ctx", {"ctxSize="}),
    ("magictl set alpha_8b_fast device=none mem", {"memoryMax="}),
]
ZSH = str(Path(__file__).parents[1] / "support" / "zsh_complete.zsh")
BASH = """\
source "$1"
read -ra COMP_WORDS <<<"$2"
[[ $2 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_magictl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "bin/magictl"
    program.parent.mkdir()
    program.write_text(MAGICTL)
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def asking(shell: str, completions: Path, line: str) -> list[str]:
    """The command that prints what the shell offers behind `line`."""
    if shell == "bash":
        return [
            "bash",
            "-c",
            BASH,
            shell,
            f"{completions}/bash-completion/completions/magictl",
            line,
        ]
    if shell == "zsh":  # completes on a terminal only
        return ["zsh", "-f", ZSH, f"{completions}/zsh/vendor-completions", line]
    script = f"{completions}/fish/vendor_completions.d/magictl.fish"
    return ["fish", "--no-config", "-c", f"source {script}; complete --do-complete '{line}'"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_completion(
    completions: Path,
    shell_environment: dict[str, str],
    shell: str,
    line: str,
    expected: set[str],
) -> None:
    found = offered(asking(shell, completions, line), shell_environment)
    if shell == "fish":  # it also offers what is only alike, and explains
        assert expected <= {text.partition("\t")[0] for text in found}
    else:
        assert found == expected


@pytest.mark.slow
def test_a_daemon_that_says_nothing_does_not_hold_up_a_shell(completions: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MAGI_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        assert offered(asking("bash", completions, "magictl show "), environment) == set()


def offered(command: list[str], environment: dict[str, str]) -> set[str]:
    assert shutil.which(command[0]), f"{command[0]} is not installed: packaging/test-tools"
    done = subprocess.run(
        command,
        env=environment,
        cwd=FILES,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()) - {""}
