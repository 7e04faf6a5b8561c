"""Machines for the doctor: a healthy one, and each fault that its checks find."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magid.config.settings import Config
from magid.doctor.checks.all import results
from magid.doctor.collect import files, services
from magid.doctor.facts import (
    AS_ROOT,
    Accounts,
    ConditionFacts,
    DaemonFacts,
    Facts,
    Finding,
    Folder,
    Gpus,
    Listener,
    Machine,
    ModelFacts,
    ModelFile,
    NotCollected,
    Place,
    ProfileFiles,
    Program,
    RegistryFiles,
    SandboxTrial,
    ServerFacts,
    ServiceUnit,
    Settings,
    Tokens,
    Volume,
)
from magid.gpus.device import gpus_of
from magid.gpus.listing import devices_in

GIB = 2**30
NOW = 1_795_000_000.0
FLAGS = frozenset(
    [
        "--model",
        "--port",
        "--api-key-file",
        "--offline",
        "--cors-origins",
        "--metrics",
        "--ctx-size",
        "--threads",
    ]
)


def unit(name: str, **changes: Any) -> ServiceUnit:
    healthy = ServiceUnit(
        name, "loaded", "active", "enabled", "success", False, f"/{name}", (), "", {}
    )
    return dataclasses.replace(healthy, **changes)


UNITS = {name: unit(name) for name in services.OURS} | {
    services.TRIAL: unit(services.TRIAL, fragment="")
}
MACHINE = Machine(
    *(257, frozenset({"+BPF_FRAMEWORK"}), True, False, NOW, True, NOW, NOW, 64 * GIB),
    *(frozenset({"cpu", "memory"}), "auto"),
)
PLACES = {
    "/etc/magi": Place("/etc/magi", "root", "root", 0o755),
    "/var/lib/magi": Place("/var/lib/magi", "magi", "magi", 0o750),
    files.LAUNCHER: Place(files.LAUNCHER, "root", "magi", 0o660),
    files.KEY_SOCKET: Place(files.KEY_SOCKET, "root", "root", 0o600),
    files.KEYS: Place(files.KEYS, "root", "magi", 0o750),
}
PROFILES, MODELS = "/etc/magi/profiles", "/var/lib/magi/models"
REGISTRY = "/var/lib/magi/model_registry.json"
PROGRAM = Program("/usr/bin/llama-server", version="9000", flags=FLAGS)
NVIDIA = Gpus(
    frozenset({"10de"}),
    frozenset({"nvidia", "nvidia-uvm"}),
    tuple(Place(p, "root", "root", 0o666) for p in ("/dev/nvidia0", "/dev/nvidia-uvm")),
    "550.54",
    ("550.54",),
)
HEALTHY = Facts(
    service=True,
    settings=Settings(Path("/etc/magi/magid.yaml"), Config()),
    machine=MACHINE,
    accounts=Accounts(
        frozenset({"magi"}), frozenset({"magi", "magi-models", "magi-view", "render"})
    ),
    units=UNITS,
    places=PLACES,
    volumes=(Volume("/var/lib/magi", 50 * GIB, 100 * GIB, 10**6, 10**7, False),),
    writing="",
    folders=(Folder("/models"),),
    unread={},
    files=(ModelFile("/models/a.gguf"),),
    trial=SandboxTrial(files={"/models/a.gguf": ""}, nodes={}, program=PROGRAM),
    listeners=(Listener("127.0.0.1", 8000, 1, "systemd", "init.scope"),),
    gpus=Gpus(frozenset(), frozenset(), (), "", ()),
    registry=RegistryFiles(REGISTRY),
    profiles=ProfileFiles(frozenset({"development"}), {}),
    tokens=Tokens(),
    daemon=DaemonFacts(profile="development"),
    launcher="",
    said={},
)


def found(**changes: Any) -> list[tuple[str, Finding]]:
    """What is found where this much is not as it should be."""
    seen = results(dataclasses.replace(HEALTHY, **changes))
    return [(result.check.name, finding) for result in seen for finding in result.findings]


def with_unit(name: str, **changes: Any) -> Mapping[str, ServiceUnit]:
    return {**UNITS, name: unit(name, **changes)}


def place(path: str, **changes: Any) -> Mapping[str, Place]:
    return {**PLACES, path: dataclasses.replace(PLACES[path], **changes)}


def machine(**changes: Any) -> Machine:
    return dataclasses.replace(MACHINE, **changes)


def volume(**changes: Any) -> tuple[Volume, ...]:
    assert not isinstance(HEALTHY.volumes, NotCollected)
    return (dataclasses.replace(HEALTHY.volumes[0], **changes),)


def gpus(**changes: Any) -> Gpus:
    return dataclasses.replace(NVIDIA, **changes)


def tried(**changes: Any) -> SandboxTrial:
    return dataclasses.replace(SandboxTrial(files={}, nodes={}, program=PROGRAM), **changes)


def with_models(*sizes: int, **changes: Any) -> DaemonFacts:
    each = [ModelFacts(f"m{n}", size, None, 8080 + n, True) for n, size in enumerate(sizes)]
    return DaemonFacts(models=tuple(dataclasses.replace(model, **changes) for model in each))


def reported(*codes: str) -> DaemonFacts:
    """A magid with these conditions."""
    remedy = ("magictl doctor", "magictl start a b")
    each = (ConditionFacts(code, "warning", "2 models are stopped", remedy) for code in codes)
    return DaemonFacts(profile="development", conditions=tuple(each))


DEVICE = "CUDA0: NVIDIA H100 (81920 MiB, 81000 MiB free)"
LISTED = f"Available devices:\n  {DEVICE}\n"
WITH_GPU = dataclasses.replace(PROGRAM, gpus=gpus_of(devices_in(LISTED) or ()))
FITTING = dataclasses.replace(WITH_GPU, flags=PROGRAM.flags | {"--fit"})
NO_MEMORY = gpus_of(devices_in(LISTED.replace("81920 MiB, 81000", "0 MiB, 0")) or ())
TWICE = gpus_of(devices_in(LISTED + f"  {DEVICE.replace('CUDA', 'Vulkan')}\n") or ())
FITS = tried(program=FITTING)
OPEN = Listener("0.0.0.0", 8000, 9, "magid", "magid.service")
ROOTED = {"magid.service": {"User": "root", "NoNewPrivileges": "yes"}}

LISTENS = {"Listen": "127.0.0.1:8000 (Stream) [::1]:8000 (Stream)"}
NO_SOCKET = with_unit("magid.socket", active="failed", result="resources", shown=LISTENS)
BOXED = "/m/a b.gguf"

# The check's name; what was seen; what is said; what is to be run (its first command), or done.
CASES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("systemd", {"machine": machine(systemd=249)}, "systemd 249 is too old", "upgrade to"),
    ("systemd", {"machine": machine(systemd=252)}, "does not know RestartSteps=", ""),
    ("systemd", {"machine": machine(unified=False)}, "are not version 2", "boot with"),
    ("systemd", {"machine": machine(features=frozenset({"-BPF_FRAMEWORK"}))}, "without BPF", ""),
    ("accounts", {"accounts": Accounts(frozenset(), frozenset({"magi", "magi-view"}))},
     "there is no user magi and no group magi-models", "systemd-sysusers"),
    ("owners", {"places": place("/var/lib/magi", user="root")},
     "/var/lib/magi belongs to root", "systemd-tmpfiles --create /usr/lib/tmpfiles.d/magi.conf"),
    ("owners", {"places": place("/var/lib/magi", mode=0o755)},
     "/var/lib/magi is open to others than magi", "chmod 0750 /var/lib/magi"),
    ("owners", {"places": place("/etc/magi", mode=0o777)}, "/etc/magi is open",
     "chmod 0755 /etc/magi"),
    ("owners", {"places": place(files.LAUNCHER, mode=0o666)}, "launcher.sock is open",
     f"chmod 0660 {files.LAUNCHER}"),
    ("owners", {"places": place(files.KEY_SOCKET, mode=0o660)}, "key.sock is open",
     f"chmod 0600 {files.KEY_SOCKET}"),
    ("owners", {"places": place(files.KEYS, mode=0o755)}, "magi-keys is open",
     f"chmod 2750 {files.KEYS}"),
    ("owners", {"places": {**PLACES, REGISTRY: Place(REGISTRY, "root", "root", 0o640)}},
     f"{REGISTRY} belongs to root", "systemd-tmpfiles --create"),
    ("owners", {"places": {**PLACES, PROFILES: Place(PROFILES, "4711", "magi", 0o755)}},
     f"{PROFILES} belongs to 4711", "systemd-tmpfiles --create"),
    ("owners", {"places": {**PLACES, MODELS: Place(MODELS, "magi", "magi", 0o2775)}},
     f"{MODELS} belongs to the group magi", "systemd-tmpfiles --create"),
    ("units", {"units": with_unit("magid.service", load="masked", active="inactive")},
     "magid.service is masked", "systemctl unmask magid.service"),
    ("units", {"units": with_unit("magid.service", load="not-found", active="inactive")},
     "magid.service is not there", "apt install --reinstall magi"),
    ("units", {"units": with_unit("magid.socket", load="bad-setting", active="inactive")},
     "systemd cannot use magid.socket: bad-setting", "`systemd-analyze verify magid.socket`"),
    ("units", {"units": with_unit("magid.service", enabled="disabled")}, "is not enabled",
     "systemctl enable --now magid.service"),
    ("units", {"units": with_unit("magid.socket", active="failed", result="start-limit-hit")},
     "magid.socket has failed", "systemctl reset-failed magid.socket"),
    ("units", {"units": with_unit("magid.service", active="failed", result="exit-code",
                                  shown={"StatusText": "cannot listen on 0.0.0.0:8000: open"})},
     "cannot listen on 0.0.0.0:8000: open", "magid --check"),
    ("units", {"units": with_unit("magid.service", active="activating", result="exit-code")},
     "magid.service fails again and again", "journalctl -n 20"),
    ("ports", {"units": NO_SOCKET, "listeners": (Listener("0.0.0.0", 8000, 7, "nginx", ""),)},
     "port 8000 is taken by nginx (pid 7), so magid.socket cannot listen on 127.0.0.1:8000",
     "kill 7"),
    ("ports", {"units": NO_SOCKET, "listeners": (Listener("::1", 8000),)},
     "a program that only root can name", AS_ROOT),
    ("units", {"units": with_unit("magi-launcher.socket", active="inactive")}, "does not run",
     "systemctl reset-failed magi-launcher.socket"),
    ("units", {"units": with_unit("llama-server@8080.service", stale=True)},
     "has not read the files of llama-server@8080.service", "systemctl daemon-reload"),
    ("units", {"units": with_unit(services.TRIAL, fragment="/etc/systemd/system/x@.service")},
     "/etc/systemd/system/x@.service keeps every model", "mv /etc/systemd/system/x@.service"),
    ("drop-ins", {"units": with_unit("magid.service", drop_ins=("/etc/x.conf",),
                                     shown=ROOTED["magid.service"])},
     "magid.service has less protection than it should: User=root",
     "mv /etc/x.conf /etc/x.conf.off"),
    ("drop-ins", {"units": with_unit("llama-server@8080.service", drop_ins=("/etc/x.conf",),
                                     shown={"DevicePolicy": "auto"})},
     "DevicePolicy=auto", "mv /etc/x.conf /etc/x.conf.off"),
    ("settings", {"settings": Settings(Path("/c"), Config(), "cannot use /c: line 1")},
     "cannot use /c: line 1", "magid --check"),
    ("profiles", {"profiles": ProfileFiles(frozenset({"mine", "development"}),
                                           {"mine": "cannot read it"})},
     "cannot read it", "mv /etc/magi/profiles/mine.yaml /etc/magi/profiles/mine.yaml.off"),
    ("profiles", {"profiles": ProfileFiles(frozenset({"other"}), {})},
     "there is no profile development", "name one of other"),
    ("registry",
     {"registry": RegistryFiles("/r", "it is not valid JSON")},
     "cannot use /r: it is not valid JSON", "mv /r /r.broken"),
    ("registry", {"registry": RegistryFiles("/r", "", ("/r.corrupt-1",))},
     "was broken once", "rm /r.corrupt-1"),
    ("registry", {"registry": RegistryFiles("/r", original=("/r.corrupt-1",))},
     "it is a registry of S.Y.N.A.P.S.E. Engine", "magictl import --yes /r.corrupt-1"),
    ("exposure", {"listeners": (OPEN,)},
     "port 8000 is open to other machines: it listens on 0.0.0.0",
     "systemctl revert magid.socket"),
    ("exposure",
     {"settings": Settings(Path("/c"), Config(rpc_servers=("127.0.0.1:1", "10.0.0.2:1")))},
     "models may use GPUs of other machines, over RPC: 10.0.0.2:1", "give them a network"),
    ("exposure", {"units": with_unit("magi-rpc.socket", shown={"Listen": "10.0.0.1:50052 (Str"})},
     "this machine offers its GPUs over RPC at 10.0.0.1:50052",
     "systemctl disable --now magi-rpc.service magi-rpc.socket"),
    ("units", {"units": with_unit("magi-rpc.service", active="failed", result="exit-code")},
     "magi-rpc.service has failed", "journalctl -n 20 --no-pager -u magi-rpc.service"),
    ("exposure", {"listeners": (OPEN,), "tokens": Tokens(0)}, "port 8000 is open",
     "for others to reach it: magictl token create --offline --scope admin --name NAME"),
    ("exposure", {"listeners": (OPEN,), "tokens": Tokens(1)}, "port 8000 is open",
     "set tls_cert and tls_key in /etc/magi/magid.yaml"),
    ("tokens", {"tokens": Tokens(problem="cannot use /t.json: x")}, "cannot use /t.json: x",
     "mv /var/lib/magi/tokens.json /var/lib/magi/tokens.json.broken"),
    ("exposure", {"listeners": (Listener("::", 8080, 9, "llama", "llama-server@8080.service"),)},
     "port 8080 is open", "systemctl stop llama-server@8080.service"),
    ("launcher", {"launcher": "Connection refused"}, "magi-launcher does not answer: Connection",
     "systemctl reset-failed magi-launcher.service"),
    ("magid", {"daemon": DaemonFacts("cannot reach magid")}, "cannot reach magid",
     "systemctl reset-failed magid.socket"),
    ("sandbox", {"trial": SandboxTrial(failed="its result is exit-code, with status 226")},
     "no unit with the sandbox of a model can be started: its result is exit-code",
     "journalctl -n 20 --no-pager -u llama-server@doctor.service"),
    ("sandbox", {"trial": SandboxTrial(failed="x"), "units": with_unit(
        services.TRIAL, fragment="", drop_ins=("/etc/a.conf",))},
     "no unit with the sandbox", "mv /etc/a.conf /etc/a.conf.off"),
    ("sandbox", {"trial": tried(egress=True)}, "servers can send to other machines", "keep them"),
    ("llama-server", {"trial": tried(program=Program("", "cannot find llama-server; install"))},
     "cannot find llama-server", ""),
    ("llama-server", {"trial": tried(program=Program("/l", "Exec format error"))},
     "/l does not run: Exec format error", "put a llama-server for this machine there"),
    ("llama-server", {"trial": tried(program=Program("/l", "error while loading shared "
                                                     "libraries: libggml.so: cannot open"))},
     "loading shared libraries", "install the library"),
    ("llama-server", {"trial": tried(program=dataclasses.replace(
        PROGRAM, flags=FLAGS - {"--api-key-file"}))}, "does not know --api-key-file", "install"),
    ("llama-server", {"trial": tried(program=dataclasses.replace(
        PROGRAM, flags=FLAGS - {"--offline"}))}, "is old: it does not know --offline", "install"),
    ("folders", {"folders": (Folder("/tmp/models"),)}, "cannot see the model folder /tmp/models",
     "move the models"),
    ("folders", {"folders": (Folder("/mnt/nas/m", missing=True, mount="/mnt/nas"),)},
     "/mnt/nas is not mounted", "mount /mnt/nas"),
    ("folders", {"folders": (Folder("/net/m", late="has not answered for 5 s"),)},
     "the model folder /net/m does not answer", "see to the mount above /net/m: `findmnt`"),
    ("folders", {"folders": (Folder("/no where", missing=True),)}, "there is no model folder",
     "install -d -m 2775 -g magi-models '/no where'"),
    ("folders", {"folders": (Folder("/home/a/m", (("/home/a", "Permission denied"),)),)},
     "magid cannot enter /home/a: Permission denied", "chmod o+x /home/a"),
    ("folders", {"folders": (Folder("/m", (("/m/b", "Permission denied"),)),)},
     "magid cannot list /m/b: Permission denied", "chmod o+rx /m/b"),
    ("folders", {"folders": (Folder("/m", (("/m", "Stale file handle"),)),)},
     "magid cannot list /m: Stale file handle", "see to /m"),
    ("files", {"files": (ModelFile("/m/a.gguf", "is a link to nothing"),)},
     "/m/a.gguf cannot be run", "mv /m/a.gguf /m/a.gguf.off"),
    ("files", {"files": (ModelFile("/m/a.gguf", "is a link", "/srv/b.gguf"),)},
     "/m/a.gguf cannot be run", "cp --remove-destination --reflink=auto /srv/b.gguf /m/a.gguf"),
    ("journal", {"machine": machine(storage="none")}, "systemd's journal keeps no logs",
     "mkdir -p /etc/systemd/journald.conf.d"),
    ("limits", {"machine": machine(controllers=frozenset({"cpu"})),
                "daemon": with_models(1, limits=frozenset({"memoryMax", "cpuQuota"}))},
     "memoryMax of m0 is not in force: this kernel has no memory controller", "boot with"),
    ("owners", {"unread": {"/etc/magi/profiles/a.yaml": ("Permission denied",
                                                        "/etc/magi/profiles/a.yaml")}},
     "magid cannot read /etc/magi/profiles/a.yaml: Permission denied",
     "chown magi:magi /etc/magi/profiles/a.yaml && chmod u+rw /etc/magi/profiles/a.yaml"),
    ("owners", {"unread": {"/tls/key.pem": ("Permission denied", "/tls/key.pem")}},
     "magid cannot read /tls/key.pem", "chgrp magi /tls/key.pem && chmod g+r /tls/key.pem"),
    ("owners", {"unread": {"/tls/key.pem": ("Permission denied", "/tls")}},
     "magid cannot read /tls/key.pem", "chmod o+x /tls"),
    ("files", {"trial": tried(files={"/m/a b.gguf": "Permission denied"})},
     "a server cannot read /m/a b.gguf", "chmod o+r '/m/a b.gguf'"),
    ("files", {"trial": tried(files={BOXED: "Permission denied"}, ways={BOXED: "/m"})},
     "a server cannot read /m/a b.gguf", "chmod o+x /m"),
    ("files", {"trial": tried(files={"/m/a:b.gguf": "cannot run it: it has ':'"})},
     "a server cannot read /m/a:b.gguf", "rename or replace the file"),
    ("files", {"trial": tried(files={"/models/x y/a:b.gguf": "it has ' '"})},
     "a server cannot read /models/x y/a:b.gguf", "mv '/models/x y' /models/x_y"),
    ("broken", {"daemon": DaemonFacts(broken=(("/m/a.gguf", "is truncated"),))},
     "/m/a.gguf is broken: it is truncated", "mv /m/a.gguf /m/a.gguf.broken"),
    ("broken", {"daemon": DaemonFacts(broken=(("/m/a.gguf", "is a projector; put it elsewhere"),))},
     "/m/a.gguf is not used: it is a projector", "put it elsewhere"),
    ("broken", {"daemon": DaemonFacts(broken=(("/m/a.gguf", "cannot be read: Permission denied"),)),
                "trial": NotCollected("only root can look", AS_ROOT)},
     "magid cannot read /m/a.gguf", AS_ROOT),
    ("gpu-nodes", {"gpus": gpus(driver="", nodes=())}, "its driver is not loaded",
     "modprobe nvidia"),
    ("gpu-nodes", {"gpus": gpus(nodes=NVIDIA.nodes[:1])}, "there is no /dev/nvidia-uvm",
     "modprobe nvidia_uvm"),
    ("gpu-nodes", {"gpus": gpus(nodes=(*NVIDIA.nodes, Place("/dev/nvidia1", "root", "root",
                                                             0o600)))},
     "cannot open /dev/nvidia1: it is root:root with mode 0600", "chmod 0666 /dev/nvidia1"),
    ("gpu-nodes", {"gpus": Gpus(frozenset({"1002"}), frozenset({"kfd", "drm"}), (), "", ())},
     "there is no /dev/kfd", "udevadm trigger /dev/kfd"),
    ("gpu-nodes", {"gpus": Gpus(frozenset(), frozenset(), (
        Place("/dev/dri/renderD128", "root", "root", 0o660),), "", ())},
     "cannot open /dev/dri/renderD128", "chgrp render /dev/dri/renderD128"),
    ("gpu-nodes", {"gpus": NVIDIA, "trial": tried(nodes={
        "/dev/nvidia0": "Operation not permitted"}, program=WITH_GPU)},
     "the sandbox of servers keeps /dev/nvidia0 from them", "modprobe nvidia"),
    ("gpu-driver", {"gpus": gpus(libraries=("560.1",)), "trial": tried(program=WITH_GPU)},
     "the NVIDIA driver that is loaded is 550.54, and its library is 560.1", "systemctl stop"),
    ("gpu-use", {"trial": tried(program=dataclasses.replace(PROGRAM, gpus=TWICE))},
     "llama-server lists NVIDIA H100 as CUDA0 and as Vulkan0", "remove llama-server's"),
    ("gpu-use", {"trial": tried(program=dataclasses.replace(PROGRAM, unlisted="it printed nothing",
     flags=PROGRAM.flags | {"--list-devices"}))},
     "cannot list its devices in the sandbox: it printed nothing", "a driver or a library"),
    ("gpu-use", {"gpus": NVIDIA}, "/usr/bin/llama-server finds no GPU", "this system has no"),
    ("gpu-use", {"gpus": gpus(system={"ID": "debian"})}, "/usr/bin/llama-server finds no GPU",
     "apt install libggml0-backend-vulkan"),
    ("gpu-use", {"daemon": with_models(1, layers=99)}, "finds no GPU", "set n_gpu_layers to 0"),
    ("gpu-use", {"gpus": NVIDIA, "trial": tried(program=WITH_GPU),
                 "said": {"llama-server@8080.service": ("no usable GPU found",)}},
     "llama-server@8080.service runs on the processor",
     "systemctl restart llama-server@8080.service"),
    ("gpu-room", {"trial": FITS, "daemon": with_models(1, device="CUDA0,CUDA1")},
     "m0 is to run on CUDA1, and this machine has CUDA0", "if the GPU should be there"),
    ("gpu-room", {"daemon": with_models(1, device="CUDA0")},
     "m0 is to run on CUDA0, and this machine has no GPU", "if the GPU should be there"),
    ("gpu-room", {"trial": tried(program=WITH_GPU)}, "it has no option --fit",
     "install a llama-server of 2026"),
    ("gpu-room", {"trial": tried(program=dataclasses.replace(FITTING, gpus=NO_MEMORY))},
     "does not say how much memory of CUDA0 is free", "use another back end"),
    ("gpu-room", {"trial": FITS, "settings": Settings(Path("/c"), Config(gpu_reserve=96 * GIB))},
     "gpu_reserve keeps 96.0 GiB of each GPU free, and CUDA0 has 80.0 GiB", "lower gpu_reserve"),
    ("gpu-room", {"trial": FITS, "daemon": with_models(1, on_gpus=80 * GIB)},
     "m0 needs 80.0 GiB on GPUs, and all of them together have 79.0 GiB", "use a smaller"),
    ("gpu-room", {"trial": FITS, "daemon": dataclasses.replace(
        with_models(1, fits="no", on_gpus=40 * GIB), others={"CUDA0": 50 * GIB})},
     "other programs hold 50.0 GiB of CUDA0, and m0 has no room", "`sudo fuser -v /dev/nvidia*"),
    ("gpu-room", {"trial": FITS, "daemon": with_models(
        1, fits="unknown", why="cannot predict the memory: it is damaged")},
     "m0 is not placed by magid: cannot predict the memory", "`magictl fits m0`"),
    ("gpu-room", {"trial": FITS, "daemon": dataclasses.replace(
        with_models(1, device="CUDA0"), servers=(
            ServerFacts("llama-server@8080.service", "m0", "ready", "", (("CUDA3", "GPU-3"),)),))},
     "llama-server@8080.service runs on CUDA3, and m0 is set to cuda0", "magictl restart m0"),
    ("memory", {"daemon": with_models(65 * GIB)}, "m0 does not fit: its files have 65.0 GiB",
     "magictl disable m0"),
    ("memory", {"daemon": with_models(40 * GIB, 50 * GIB)},
     "the enabled models have 90.0 GiB together, and the machine has 64.0 GiB",
     "magictl disable m1"),
    ("ports", {"listeners": (Listener("127.0.0.1", 8085, 7, "nginx", "nginx.service"),)},
     "port 8085 is taken by nginx (pid 7, nginx.service)", "systemctl stop nginx.service"),
    ("ports", {"listeners": (Listener("::", 8085, 7, "python3", "session-1.scope"),)},
     "port 8085 is taken by python3", "kill 7"),
    ("ports", {"listeners": (Listener("::", 8085),)}, "a program that only root can name", AS_ROOT),
    ("servers", {"daemon": DaemonFacts(servers=(
        ServerFacts("llama-server@8080.service", "m", "failed", "out of memory"),))},
     "llama-server@8080.service (m) is in state failed", "journalctl"),
    ("disks", {"volumes": volume(free=2**20)}, "the disk is full: 1 MiB are free", "du -xah"),
    ("disks", {"volumes": volume(free=GIB // 2)}, "the disk is nearly full", "du -xah"),
    ("disks", {"volumes": volume(read_only=True)}, "is read-only", "findmnt -T /var/lib/magi"),
    ("disks", {"volumes": volume(free_inodes=3)}, "3 inodes are free", "du -x --inodes"),
    ("writing", {"writing": "Read-only file system"}, "cannot write to /var/lib/magi: Read-only",
     "chown magi:magi /var/lib/magi"),
    ("conditions", {"daemon": reported("ModelsStopped")}, "2 models are stopped", "magictl start"),
    ("clock", {"machine": machine(clock=0.0)}, "the clock is wrong: it is 1970-01-01", "touch"),
    ("clock", {"machine": machine(synchronised=False)}, "is not synchronised", "timedatectl"),
)  # fmt: skip
