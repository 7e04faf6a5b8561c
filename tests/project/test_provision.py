"""The program that finds or gets a llama-server: what it decides, and what it does for real."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

_FOLDER = Path(__file__).resolve().parents[2] / "packaging"
_PROGRAM = _FOLDER / "provision-llama-server"


def _load(name: str) -> ModuleType:
    """The module by its path: `packaging` as a name is a library's."""
    spec = importlib.util.spec_from_file_location(name, _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


apt_sources = _load("apt_sources")
provision = _load("provision_llama_server")


# --- the machine's sources ------------------------------------------------------------------

ONE_LINE = [
    ("deb http://a.test/debian bookworm main", [("http://a.test/debian", "bookworm", ("main",))]),
    (
        "deb [arch=amd64 signed-by=/k.gpg] http://a.test/debian sid main contrib # mine",
        [("http://a.test/debian", "sid", ("main", "contrib"))],
    ),
    ("deb [ trusted=yes ] http://a.test/ ./", [("http://a.test/", "./", ())]),
    ("# deb http://a.test/debian bookworm main", []),
    ("deb-src http://a.test/debian bookworm main", []),
    ("deb http://a.test/debian", []),
    ("", []),
]

DEB822 = [
    (
        "Types: deb deb-src\n# http://b.test/snapshot/20250520T000000Z\nURIs: http://a.test/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n",
        [
            ("http://a.test/debian", "bookworm", ("main",)),
            ("http://a.test/debian", "bookworm-updates", ("main",)),
        ],
    ),
    (
        "types: deb\nuris: http://a.test/debian\n  http://b.test/debian\nsuites: sid\n"
        "components: main\n contrib\n",
        [
            ("http://a.test/debian", "sid", ("main", "contrib")),
            ("http://b.test/debian", "sid", ("main", "contrib")),
        ],
    ),
    ("Types: deb-src\nURIs: http://a.test/debian\nSuites: sid\nComponents: main\n", []),
    ("Enabled: no\nTypes: deb\nURIs: http://a.test\nSuites: sid\nComponents: main\n", []),
    (
        "Types: deb\nURIs: x:1\nSuites: a\n \n\nTypes: deb\nURIs: x:2\nSuites: b\n",
        [("x:1", "a", ()), ("x:2", "b", ())],
    ),
    (
        "Types: deb\nURIs: http://a.test/debian\nSuites: sid\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/\n",
        [("http://a.test/debian", "sid", ())],
    ),
    ("  a stray continuation\n", []),
]

Triple = tuple[str, str, tuple[str, ...]]


@pytest.mark.parametrize(("text", "expected"), ONE_LINE)
def test_one_line_sources(text: str, expected: list[Triple]) -> None:
    assert apt_sources.parse_list(text) == [apt_sources.Source(*each) for each in expected]


@pytest.mark.parametrize(("text", "expected"), DEB822)
def test_deb822_sources(text: str, expected: list[Triple]) -> None:
    assert apt_sources.parse_deb822(text) == [apt_sources.Source(*each) for each in expected]


ARCHIVES = [
    ([("http://a.test/debian/", "bookworm", ("main",))], ["http://a.test/debian"]),
    ([("http://a.test/debian", "bookworm", ("main",))] * 2, ["http://a.test/debian"]),
    (  # who else uses Debian's names comes behind
        [
            ("http://nodes.test/node", "trixie", ("main",)),
            ("mirror+file:///etc/apt/mirrors/debian.list", "trixie", ("main",)),
        ],
        ["mirror+file:///etc/apt/mirrors/debian.list", "http://nodes.test/node"],
    ),
    ([("http://a.test/debian-security", "bookworm-security", ("main",))], []),
    ([("http://docker.test/linux/debian", "bookworm", ("stable",))], []),
    ([("http://a.test/ubuntu", "noble", ("main", "universe"))], []),
    ([("cdrom:[Debian 12]/", "bookworm", ("main",))], []),
]


@pytest.mark.parametrize(("sources", "expected"), ARCHIVES)
def test_which_archives_are_asked(sources: list[Triple], expected: list[str]) -> None:
    assert apt_sources.archives([apt_sources.Source(*each) for each in sources]) == expected


def test_sources_of_both_kinds_are_read(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://1.test/debian sid main\n")
    (parts / "a.sources").write_text("Types: deb\nURIs: http://2.test/debian\nSuites: sid\n")
    (parts / "b.list").write_text("deb http://3.test/debian sid main\n")
    (parts / "c.list.save").write_text("deb http://4.test/debian sid main\n")
    (parts / "d.list").mkdir()
    read = apt_sources.machine_sources(tmp_path)
    assert [source.uri for source in read] == [f"http://{n}.test/debian" for n in (1, 2, 3)]


def test_what_the_machine_permits_is_overruled() -> None:
    loose = 'Acquire::AllowInsecureRepositories "true";\nAcquire::http::Proxy "http://p.test:1";'
    text = provision.apt_configuration(Path("/x"), "amd64", loose)
    assert text.startswith(loose)
    assert text.rindex('AllowInsecureRepositories "false"') > text.index('"true"')


def test_passwords_do_not_show() -> None:
    shown = provision.without_password("E: http://me:secret@a.test/debian and http://b.test/@x")
    assert shown == "E: http://a.test/debian and http://b.test/@x"


# --- the program ----------------------------------------------------------------------------


def _run(
    *arguments: str, environment: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run the program with what is given and PATH; without an environment, with that of here."""
    given = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, **(environment or os.environ)}
    return subprocess.run(
        [str(_PROGRAM), *arguments],
        env=given,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _program(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_chosen_one_is_taken(tmp_path: Path) -> None:
    chosen = _program(tmp_path / "my server", "#!/bin/sh\necho version: 1\n")
    done = _run(environment={"LLAMA_SERVER_PATH": str(chosen)})
    assert (done.returncode, done.stdout) == (0, f"{chosen}\n")


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (None, 0, "there is no such file"),
        ("#!/bin/sh\n", 0o644, "it is not executable"),
        ("#!/bin/sh\necho no libfoo >&2\nexit 127\n", 0o755, "ends with 127: no libfoo"),
        ("#!/no/such/interpreter\n", 0o755, "it does not run: "),
    ],
)
def test_a_chosen_one_of_no_use_is_an_error(
    tmp_path: Path, text: str | None, mode: int, reason: str
) -> None:
    """Whoever names a program does not want to be given another one."""
    chosen = tmp_path / "llama-server"
    if text is not None:
        _program(chosen, text, mode)
    done = _run(environment={"LLAMA_SERVER_PATH": str(chosen)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cannot get a llama-server: LLAMA_SERVER_PATH is ")
    assert reason in done.stderr
    assert "install one and set LLAMA_SERVER_PATH to it" in done.stderr


def test_a_broken_one_on_the_path_is_passed_over(tmp_path: Path, llama_server: Path) -> None:
    _program(tmp_path / "a" / "llama-server", "#!/bin/sh\nexit 1\n")
    good = tmp_path / "b" / "llama-server"
    _program(good, f'#!/bin/sh\nexec "{llama_server}" "$@"\n')
    path = f"{tmp_path / 'a'}:{tmp_path / 'b'}:{os.environ['PATH']}"
    done = _run(environment={"PATH": path})
    fixed = [place for place in provision.places({}) if provision.fault(place) is None]
    assert done.stdout == f"{[*fixed, good][0]}\n", done.stderr
    if not fixed:
        assert f"passing over {tmp_path / 'a' / 'llama-server'}: --version ends" in done.stderr


def test_one_that_was_made_is_found_again(llama_server: Path) -> None:
    done = _run()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{llama_server}\n", "")


def test_the_one_with_rpc_is_never_the_chosen_one(
    tmp_path: Path, llama_server_with_rpc: Path
) -> None:
    chosen = _program(tmp_path / "llama-server", "#!/bin/sh\necho version: 1\n")
    done = _run("--rpc", environment={**os.environ, "LLAMA_SERVER_PATH": str(chosen)})
    assert (done.returncode, done.stdout) == (0, f"{llama_server_with_rpc}\n"), done.stderr
    assert os.access(llama_server_with_rpc.with_name("ggml-rpc-server"), os.X_OK)


@pytest.mark.slow
def test_a_fresh_one_is_made_once_by_two_at_once(tmp_path: Path) -> None:
    """Downloads twice 10 MB of index and 20 MB of packages at most; leaves no work files."""
    environment = {**os.environ, "MAGI_CACHE": str(tmp_path / "c c"), "PYTHON": sys.executable}
    command = [str(_PROGRAM), "--private"]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate(timeout=500)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    program = Path(said.pop())
    assert not said
    assert program.is_relative_to(tmp_path / "c c")
    assert sorted(path.name for path in program.parent.parent.iterdir()) == [
        program.parent.name,
        "lock",
    ]
    moved = program.parent.rename(tmp_path / "moved") / program.name
    done = subprocess.run([moved, "--version"], env={}, capture_output=True, text=True, check=True)
    assert "version" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        pytest.param(
            "http://user:secret@127.0.0.1:9/debian",
            "http://127.0.0.1:9/debian: apt-get update: ",
            marks=pytest.mark.slow,  # apt tries again
        ),
        ("file:/no/such/archive", "apt-get update: "),
    ],
)
def test_no_archive_is_an_error_that_helps(tmp_path: Path, archive: str, reason: str) -> None:
    environment = {"MAGI_CACHE": str(tmp_path), "MAGI_DEBIAN_ARCHIVE": archive, "no_proxy": "*"}
    done = _run("--private", environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cannot get a llama-server: none is installed, and none could be down")
    assert reason in last
    assert "secret" not in done.stderr
    assert [path.name for path in (tmp_path / "llama-server").iterdir()] == ["lock"]
