"""Faults that a test plants one at a time: they end magid, or what others rest on."""

from typing import Final

from tests.lab.faults import ALPHA, BETA, CONFIG, REGISTRY, Fault, is_taken

SERVER = "/usr/local/bin/llama-server"
DROP_INS = "/etc/systemd/system"
_RESTART = "systemctl restart magid.service"


def _drop_in(unit: str, text: str) -> str:
    folder = f"{DROP_INS}/{unit}.d"
    return f"mkdir -p '{folder}'; printf '{text}' >'{folder}/x.conf'; systemctl daemon-reload"


def _to_config(more: str) -> str:
    return f"cp -p {CONFIG} /root/config; {more}; systemctl restart magid.service || :"


_CONFIG_BACK: Final = f"cp -p /root/config {CONFIG}; {_RESTART}"
_VOLUME: Final = (
    "cp -a /var/lib/magi /root/state; "
    "mount -t tmpfs -o size={size},nr_inodes={inodes},mode=0750,uid=magi,gid=magi tmpfs "
    "/var/lib/magi; cp -a /root/state/*.json /root/state/models /var/lib/magi; rm -r /root/state"
)
_VOLUME_AWAY: Final = "umount /var/lib/magi"

ALONE: Final = (
    Fault(
        "account-missing",
        "systemctl stop magid.service magid.socket magid-local.socket magid-view.socket; "
        "userdel magi; groupdel magi-models; groupdel magi 2>/dev/null || :",
        "there is no user magi and no group magi",
    ),
    Fault(
        "state-folder-of-another-user",  # a backup of a machine with other numbers
        "systemctl stop magid.service magid.socket magid-local.socket magid-view.socket; "
        "chown -R 4711:4711 /var/lib/magi",
        "/var/lib/magi belongs to 4711",
    ),
    Fault("state-not-writable", "chmod 0500 /var/lib/magi", "the user magi cannot write to"),
    Fault(
        "disk-read-only",
        f"{_VOLUME.format(size='64m', inodes=1000)}; mount -o remount,ro /var/lib/magi",
        "the file system of /var/lib/magi is read-only",
        after=_VOLUME_AWAY,
    ),
    Fault("registry-broken", f"echo broken >{REGISTRY}", f"cannot use {REGISTRY}: "),
    Fault(
        "tokens-broken",
        "echo '{' >/var/lib/magi/tokens.json; chown magi:magi /var/lib/magi/tokens.json",
        "cannot use /var/lib/magi/tokens.json: ",
    ),
    Fault(
        "journal-keeps-nothing",
        "printf '[Journal]\\nStorage=none\\n' >/etc/systemd/journald.conf; "
        "systemctl restart systemd-journald.service",
        "systemd's journal keeps no logs: Storage=none",
        after="rm /etc/systemd/journald.conf",
    ),
    Fault("unit-not-enabled", "systemctl disable -q magid.service", "magid.service is not enabled"),
    Fault(
        "unit-masked", "systemctl mask -q --now magid-local.socket", "magid-local.socket is masked"
    ),
    Fault(
        "unit-masked",
        "systemctl mask -q --now magi-launcher.service",
        "magi-launcher.service is masked",
    ),
    Fault(
        "unit-not-running",
        "systemctl stop magi-launcher.socket",
        "magi-launcher.socket does not run",
    ),
    Fault(
        "unit-failed",  # whatever it was is gone, and systemd tries no longer
        "mv /usr/bin/magid /root/magid; systemctl restart magid.service 2>/dev/null || :; "
        "mv /root/magid /usr/bin/magid",
        "magid.service has failed",
    ),
    Fault(
        "magid-cannot-start",
        f"chmod 0600 {CONFIG}; systemctl restart magid.service 2>/dev/null || :",
        f"cannot read {CONFIG}: Permission denied",
        after=f"chmod 0644 {CONFIG}",
    ),
    Fault(
        "unit-unusable",
        _drop_in("magid.service", "[Service]\\nExecStart=\\n"),
        "systemd cannot use magid.service: bad-setting",
    ),
    Fault(
        "unit-files-not-read",
        # A folder of drop-ins that is new would do, too, but systemd notices those late (252).
        "touch /usr/lib/systemd/system/magid.service",
        "systemd has not read the files of magid.service again since they changed",
    ),
    Fault(
        "template-in-the-way",
        f"printf '[Service]\\nExecStart=/bin/true\\n' >'{DROP_INS}/llama-server@.service'",
        f"{DROP_INS}/llama-server@.service keeps every model from being started",
    ),
    Fault(
        "protection-taken-away",
        _drop_in("magi-launcher.service", "[Service]\\nNoNewPrivileges=no\\n"),
        "magi-launcher.service has less protection than it should: NoNewPrivileges=no",
    ),
    Fault(
        "protection-taken-away",
        _drop_in("llama-server@8080.service", "[Service]\\nDevicePolicy=auto\\n"),
        "llama-server@8080.service has less protection than it should: DevicePolicy=auto",
    ),
    Fault(
        "sandbox-fails",
        _drop_in("llama-server@.service", "[Service]\\nExecStartPre=/bin/false\\n"),
        "no unit with the sandbox of a model can be started",
    ),
    Fault(
        "open-without-token",
        "systemctl stop -q magid.service magid.socket; "
        + _drop_in("magid.socket", "[Socket]\\nListenStream=0.0.0.0:8001\\n")
        + "; systemctl start magid.socket",
        "port 8001 is open to other machines: it listens on 0.0.0.0",
    ),
    Fault(
        "server-exposed",
        "systemd-run -q --unit=llama-server@8099 python3 -m http.server --bind 0.0.0.0 8099; "
        + is_taken(8099),
        "port 8099 is open to other machines: it listens on 0.0.0.0",
    ),
    Fault(
        "rpc-offered",
        _drop_in("magi-rpc.socket", "[Socket]\\nListenStream=10.0.0.2:50052\\n")
        + "; systemctl start magi-rpc.socket",
        "this machine offers its GPUs over RPC at 10.0.0.2:50052",
        after="systemctl revert magi-rpc.socket",
    ),
    Fault(
        "rpc-address-public",
        _drop_in("magi-rpc.socket", "[Socket]\\nListenStream=\\nListenStream=8.8.8.8:50052\\n")
        + "; systemctl start magi-rpc.socket",
        "magi-rpc.socket is set to 8.8.8.8:50052",
        after="systemctl stop magi-rpc.socket",
    ),
    Fault(
        "api-port-taken",
        "systemctl stop -q magid.service magid.socket; "
        "systemd-run -q --unit=stranger python3 -m http.server --bind 127.0.0.1 8000; "
        + is_taken(8000)
        + "; systemctl start magid.socket magid.service 2>/dev/null || :",
        "port 8000 is taken by python3",
    ),
    Fault("magid-reports", "systemctl stop magi-models.target", " stopped: "),
    Fault("launcher-silent", "rm /run/magi/launcher.sock", "magi-launcher does not answer"),
    Fault(
        "magid-silent",
        "kill -STOP $(systemctl show -P MainPID magid.service)",
        "cannot get an answer from magid",
    ),
    Fault(
        "model-folder-missing",
        _to_config(f"sed -i 's|\\[/models|[/srv/none, /models|' {CONFIG}"),
        "there is no model folder /srv/none",
        after=f"{_CONFIG_BACK}; rmdir /srv/none",
    ),
    Fault(
        "model-folder-not-mounted",
        "mkdir -p /mnt/nas; echo 'tmpfs /mnt/nas tmpfs defaults 0 0' >>/etc/fstab; "
        + _to_config(f"sed -i 's|\\[/models|[/mnt/nas, /models|' {CONFIG}"),
        "/mnt/nas is not mounted, and the model folder /mnt/nas is there",
        after=f"{_CONFIG_BACK}; umount /mnt/nas; sed -i /nas/d /etc/fstab; systemctl daemon-reload",
    ),
    Fault(
        "model-way-closed",  # magid can enter it, and no server can
        f"mkdir -p /data/private/models; cp {BETA} /data/private/models/Eps-1B-Q4_0.gguf; "
        "chgrp magi /data/private; chmod 0750 /data/private; "
        + _to_config(f"sed -i 's|\\[/models|[/data/private/models, /models|' {CONFIG}"),
        "a server cannot read /data/private/models/Eps-1B-Q4_0.gguf",
        after=f"rm -r /data; {_CONFIG_BACK}",
    ),
    Fault(
        "model-does-not-fit",
        f"truncate -s 4T {ALPHA}; magictl rescan 2>/dev/null || :",
        "alpha_1p0b_q4km_fast does not fit",
        after=f"cp {BETA} {ALPHA}; magictl rescan; magictl enable alpha_1p0b_q4km_fast; "
        "magictl apply",
    ),
    Fault(
        "models-do-not-fit",
        "kib=$(awk '/MemTotal/ {print $2}' /proc/meminfo); "
        f"truncate -s $((kib * 96 / 100))K {ALPHA}; truncate -s $((kib * 6 / 100))K {BETA}; "
        "magictl rescan 2>/dev/null || :",
        "the enabled models have",
        after=f"truncate -s $(stat -c %s /models/Gamma-14B-Q4_K_M.gguf) {ALPHA} {BETA}; "
        "magictl rescan; magictl enable alpha_1p0b_q4km_fast; magictl apply",
    ),
    Fault(
        "server-failed",
        f"mv {SERVER} /root/server; magictl restart alpha_1p0b_q4km_fast 2>/dev/null || :; "
        f"mv /root/server {SERVER}",
        "llama-server@8080.service (alpha_1p0b_q4km_fast) is in state failed",
    ),
    Fault(
        "configuration-broken",
        _to_config(f"echo 'port_rang: [1, 2]' >>{CONFIG}"),
        f"cannot use {CONFIG}: line 5: port_rang is not known",
        by_hand=f"sed -i /port_rang:/d {CONFIG}",
    ),
    Fault(
        "first-profile-missing",
        _to_config(f"sed -i 's/^profile: .*/profile: nowhere/' {CONFIG}"),
        "there is no profile nowhere",
        by_hand=_CONFIG_BACK,
    ),
    Fault(
        "open-without-tls",
        "systemctl stop -q magid.service magid.socket; "
        + _drop_in("magid.socket", "[Socket]\\nListenStream=0.0.0.0:8001\\n")
        + "; magictl token create --offline --scope admin --name me >/dev/null; "
        "systemctl start magid.socket magid.service",
        "port 8001 is open to other machines",
        by_hand="systemctl stop magid.service magid.socket; systemctl revert magid.socket; "
        "rm -f /var/lib/magi/tokens.json; systemctl start magid.socket magid.service",
    ),
    Fault(
        "limit-not-in-force",  # the machines of the laboratory have no controllers at all
        "magictl set alpha_1p0b_q4km_fast memoryMax=8G >/dev/null",
        "memoryMax of alpha_1p0b_q4km_fast is not in force",
        by_hand="magictl set alpha_1p0b_q4km_fast memoryMax=",
    ),
    Fault(
        "model-unused",
        f"mkdir -p /srv/more; cp {BETA} /srv/more; ln -s /srv/more /models/more; magictl rescan",
        "/models/more is not used: it is a link to a folder outside the model folders: /srv/more",
        by_hand="rm /models/more; magictl rescan",
    ),
    Fault(
        "model-folder-private",
        "mkdir -p /tmp/models; "
        + _to_config(f"sed -i 's|\\[/models|[/tmp/models, /models|' {CONFIG}"),
        "magid cannot see the model folder /tmp/models",
        by_hand=_CONFIG_BACK,
    ),
    Fault(
        "no-gpu-found",
        _to_config(f"sed -i 's|n_threads|n_gpu_layers: 99, n_threads|' {CONFIG}"),
        f"{SERVER} finds no GPU",
        by_hand=_CONFIG_BACK,
    ),
    Fault(
        "disk-full",
        _VOLUME.format(size="8m", inodes=1000),
        "the disk is full: ",
        by_hand=_VOLUME_AWAY,
    ),
    Fault(
        "disk-nearly-full",
        _VOLUME.format(size="8g", inodes=1000) + "; fallocate -l 8120m /var/lib/magi/large",
        "the disk is nearly full: ",
        by_hand=_VOLUME_AWAY,
    ),
    Fault(
        "inodes-used-up",
        _VOLUME.format(size="64m", inodes=40),
        "no more files can be made on /var/lib/magi",
        by_hand=_VOLUME_AWAY,
    ),
    Fault(
        "llama-server-does-not-run",
        f"mv {SERVER} /root/server",
        "cannot find llama-server in /usr/local/bin, /usr/bin or PATH",
        by_hand=f"mv /root/server {SERVER}",
    ),
    Fault(
        "llama-server-does-not-run",
        f"mv {SERVER} /root/server; printf '\\177ELFother' >{SERVER}; chmod +x {SERVER}",
        f"{SERVER} does not run: Exec format error",
        by_hand=f"mv /root/server {SERVER}",
    ),
    Fault(
        "llama-server-does-not-run",
        f"mv {SERVER} /root/server; printf '#!/bin/sh\\necho libllama.so: error while loading "
        f"shared libraries; exit 127\\n' >{SERVER}; chmod +x {SERVER}",
        "`--version` ended with 127: libllama.so: error while loading shared libraries",
        by_hand=f"mv /root/server {SERVER}",
    ),
    Fault(
        "llama-server-too-old",
        f"mv {SERVER} /root/server; printf '#!/bin/sh\\necho --model X; echo --port N\\n' "
        f">{SERVER}; chmod +x {SERVER}",
        f"cannot use {SERVER}: it does not know --api-key-file",
        by_hand=f"mv /root/server {SERVER}",
    ),
)
