"""Faults of GPUs, each planted as doctor would meet it: lists, nodes, and trees of the kernel.

A wrapper of llama-server lists what a file says, predicts what another says, and runs models on the
processor. What the kernel shows of a GPU is mounted over /sys and /proc.
"""

from typing import Final

from tests.lab.faults import Fault

PROGRAM: Final = "/usr/local/bin/llama-with-gpus"
MODEL: Final = "alpha_1p0b_q4km_fast"
_FOLDER: Final = "/etc/fake-gpus"
# list: the devices; need: MiB that is predicted on one; old: no option --fit; cpu: says that it
# found no GPU.
WRAPPER: Final = """\
#!/bin/sh
here=/etc/fake-gpus
case "$*" in
*--list-devices)
  grep -q crash $here/list && echo 'a driver is broken' >&2 && exit 1
  echo 'Available devices:'
  cat $here/list
  exit ;;
*--help)
  {program} --help | if [ -e $here/old ]; then grep -v -e '^--fit' -e '^-fit'; else cat; fi
  exit ;;
*"--device CUDA"*predict.sock)
  [ -s $here/need ] || {{ echo 'error: cannot load this file' >&2; exit 1; }}
  device=${{*#*--device }}
  device=${{device%% *}}
  need=$(cat $here/need)
  echo '| memory breakdown [MiB] |'
  echo "|   - $device (H100) | 81920 = 80000 + ( $need = $need + 0 + 0) + 1408 |"
  echo '|   - Host | 64 = 60 + 0 + 4 |'
  exit ;;
*"--device CUDA"*)
  [ ! -e $here/cpu ] || echo 'warning: no usable GPU found' >&2
  for word; do
    shift
    case $last:$word in
    *:CUDA*) set -- "$@" none ;;
    *:--n-gpu-layers | --n-gpu-layers:*) ;;
    *) set -- "$@" "$word" ;;
    esac
    last=$word
  done ;;
esac
exec {program} "$@"
"""
_SOUND: Final = "  CUDA0: NVIDIA H100 (81920 MiB, 80000 MiB free)"
_LIST: Final = f"{_FOLDER}/list"
_ASK: Final = "magictl gpus --refresh >/dev/null 2>&1 || :"
_RESTART: Final = f"magictl restart {MODEL} >/dev/null 2>&1 || :"
SOUND: Final = (
    f"mkdir -p {_FOLDER}; rm -f {_FOLDER}/old {_FOLDER}/cpu; echo 512 >{_FOLDER}/need; "
    f"echo '{_SOUND}' >{_LIST}"
)
# A display controller of this vendor, as lspci would find it.
_PCI: Final = (
    "mount -t tmpfs tmpfs /sys/bus/pci/devices && d=/sys/bus/pci/devices/0000:01:00.0 && "
    "mkdir $d && echo 0x030000 >$d/class && echo {vendor} >$d/vendor"
)
_NVIDIA, _AMD = _PCI.format(vendor="0x10de"), _PCI.format(vendor="0x1002")
_NO_PCI: Final = "umount /sys/bus/pci/devices"
_DRIVER: Final = (
    "mount -t tmpfs tmpfs /proc/driver && mkdir /proc/driver/nvidia && echo 'NVRM version: NVIDIA "
    "UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 2024' >/proc/driver/nvidia/version"
)
_NO_DRIVER: Final = "umount /proc/driver"
_UVM: Final = "mknod -m 0666 /dev/nvidia-uvm c 1 3"  # a device that every sandbox may open
_LIBRARY: Final = "/usr/lib/x86_64-linux-gnu/libcuda.so"


def _listed(*lines: str) -> str:
    text = "\\n".join(f"  {line}" for line in lines)
    return f"printf '{text}\\n' >{_LIST}; {_ASK}"


def _back(more: str = "") -> str:
    return f"{SOUND}; {more}{'; ' if more else ''}{_ASK}; magictl apply >/dev/null 2>&1 || :"


GPU_FAULTS: Final = (
    Fault(
        "nvidia-driver-missing",
        _NVIDIA,
        "there is an NVIDIA GPU, and its driver is not loaded",
        by_hand=_NO_PCI,
    ),
    Fault(
        "nvidia-uvm-missing",
        f"{_NVIDIA}; {_DRIVER}",
        "there is no /dev/nvidia-uvm",
        after=f"rm -f /dev/nvidia-uvm; {_NO_DRIVER}; {_NO_PCI}",
        by_hand=_UVM,
    ),
    Fault(
        "nvidia-driver-mismatch",
        f"{_NVIDIA}; {_DRIVER}; {_UVM}; touch {_LIBRARY}.535.54; ln -s libcuda.so.535.54 "
        f"{_LIBRARY}.1",
        "the NVIDIA driver that is loaded is 550.54.14, and its library is 535.54",
        after=f"rm -f /dev/nvidia-uvm {_LIBRARY}.*; {_NO_DRIVER}; {_NO_PCI}",
        by_hand=f"mv {_LIBRARY}.535.54 {_LIBRARY}.550.54.14; ln -sf libcuda.so.550.54.14 "
        f"{_LIBRARY}.1",
    ),
    Fault(
        "kfd-missing",
        f"{_AMD}; sed '/^Character/a 235 kfd' /proc/devices >/root/devices; "
        "mount --bind /root/devices /proc/devices",
        "there is no /dev/kfd",
        after=f"umount /proc/devices; {_NO_PCI}; rm -f /dev/kfd",
        by_hand="mknod -m 0666 /dev/kfd c 1 3",
    ),
    Fault(
        "gpu-kept-out",
        "mknod -m 0666 /dev/nvidia0 c 10 200",  # the device of tunnels, which no sandbox has
        "the sandbox of servers keeps /dev/nvidia0 from them: Operation not permitted",
        by_hand="rm /dev/nvidia0",
    ),
    Fault(
        "no-gpu-found",
        f"{_NVIDIA}; {_DRIVER}; {_UVM}; : >{_LIST}; {_ASK}",
        f"{PROGRAM} finds no GPU",
        after=f"rm /dev/nvidia-uvm; {_NO_DRIVER}; {_NO_PCI}",
        by_hand=_back(),
    ),
    Fault(
        "gpus-not-listed",
        f"echo crash >{_LIST}; {_ASK}",
        f"{PROGRAM} cannot list its devices in the sandbox: it ended with 1: a driver is broken",
        by_hand=_back(),
    ),
    Fault(
        "gpu-listed-twice",
        _listed(_SOUND.strip(), "Vulkan0: NVIDIA H100 (81920 MiB, 80000 MiB free)"),
        "llama-server lists NVIDIA H100 as CUDA0 and as Vulkan0",
        by_hand=_back(),
    ),
    Fault(
        "device-missing",
        f"magictl set {MODEL} device=CUDA7 >/dev/null",
        f"{MODEL} is to run on CUDA7, and this machine has CUDA0",
    ),
    Fault(
        "gpu-memory-unknown",
        _listed(_SOUND.strip(), "CUDA1: Strange (0 MiB, 0 MiB free)"),
        "the driver does not say how much memory of CUDA1 is free",
        by_hand=_back(),
    ),
    Fault(
        "gpu-reserve-too-large",
        _listed(_SOUND.strip(), "CUDA1: NVIDIA NVS (512 MiB, 500 MiB free)"),
        "gpu_reserve keeps 1.0 GiB of each GPU free, and CUDA1 has 0.5 GiB",
        by_hand=_back(),
    ),
    Fault(
        "memory-not-predicted",
        f"touch {_FOLDER}/old",
        f"{PROGRAM} cannot predict its memory: it has no option --fit",
        by_hand=_back(),
    ),
    Fault(
        "prediction-failed",  # with a GPU of the user's own choice: the header alone says no more
        f": >{_FOLDER}/need; magictl set {MODEL} ctxSize=1024 device=CUDA0 >/dev/null; {_RESTART}",
        f"{MODEL} is not placed by magid: cannot predict the memory: error: cannot load this file",
        by_hand=_back(f"magictl set {MODEL} ctxSize= device=; {_RESTART}"),
    ),
    Fault(
        "model-never-fits",
        f"echo 99999 >{_FOLDER}/need; magictl set {MODEL} ctxSize=2048 >/dev/null; {_RESTART}",
        f"{MODEL} needs 97.7 GiB on GPUs, and all of them together have 79.0 GiB",
        by_hand=_back(f"magictl set {MODEL} ctxSize=; {_RESTART}"),
    ),
    Fault(
        "gpus-held-by-others",
        _listed("CUDA0: NVIDIA H100 (81920 MiB, 1100 MiB free)")
        + f"; magictl set {MODEL} ctxSize=768 >/dev/null; {_RESTART}",
        "other programs hold 7",
        by_hand=_back(f"magictl set {MODEL} ctxSize=; {_RESTART}"),
    ),
    Fault(
        "server-elsewhere",
        _listed(_SOUND.strip(), "CUDA1: NVIDIA A100 (40960 MiB, 40000 MiB free)")
        + f"; {_RESTART}; magictl set {MODEL} device=CUDA0 >/dev/null",
        f"runs on CUDA1, and {MODEL} is set to cuda0",
        after=_back(f"magictl set {MODEL} device= >/dev/null; {_RESTART}"),
    ),
    Fault(
        "server-without-gpu",
        f"touch {_FOLDER}/cpu; magictl set {MODEL} nGpuLayers=99 >/dev/null; {_RESTART}; "
        f"rm {_FOLDER}/cpu",
        "llama-server@8080.service runs on the processor",
        after=_back(f"magictl set {MODEL} nGpuLayers= >/dev/null; {_RESTART}"),
    ),
)
