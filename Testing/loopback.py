"""A second computer for tests: OpenSSH's own server on the loopback, with keys, port and a home folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
SSH = shutil.which("ssh")  # the real one, whatever PATH says later
ALL = SSHD and SSH and shutil.which("ssh-keygen")
MISSING = "" if ALL else "OpenSSH's server is not installed (Debian: openssh-server)"
HOST = "far"  # what ssh calls it


class Loopback:
    """Running until ``stop``. ``near`` is the folder that has to come first on PATH here: its ssh knows the way.

    Arguments:
      folder: for everything. patch: Python that the ``desam`` over there runs first.
    """

    def __init__(self, folder: Path, patch: str = "") -> None:
        self.folder, self.near, self.home, self.desam = folder, folder / "near", folder / "home", folder / "bin/desam"
        for each in (self.near, self.home, self.desam.parent):
            each.mkdir(parents=True)
        for key in ("host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        code = f"import sys; sys.path[:0] = {sys.path!r}\n{patch}\nfrom desam_cli import main; sys.exit(main())\n"
        (folder / "desam.py").write_text(code)
        line = f'DESAM_HOME={self.home} OMP_NUM_THREADS=1 exec {sys.executable} {folder}/desam.py "$@"'
        self._script(self.desam, line)
        self.known_hosts = folder / "known_hosts"
        self.trust()
        self.use_key("user")
        self._server = self._start()

    @staticmethod
    def _script(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def trust(self) -> None:
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {(self.folder / 'host.pub').read_text()}")

    def use_key(self, name: str) -> None:
        lines = [f"Host {HOST}", "HostName 127.0.0.1", f"Port {self.port}", f"IdentityFile {self.folder / name}",
                 "IdentitiesOnly yes", f"UserKnownHostsFile {self.known_hosts}", "GlobalKnownHostsFile /dev/null",
                 "IdentityAgent none"]  # fmt: skip
        (self.folder / "ssh_config").write_text("\n".join(lines) + "\n")
        self._script(self.near / "ssh", f'exec {SSH} -F {self.folder}/ssh_config "$@"')

    def _start(self) -> subprocess.Popen[bytes]:
        lines = [f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.folder}/host", "PidFile none",
                 f"AuthorizedKeysFile {self.folder}/user.pub", "StrictModes no", "UsePAM no", "PermitRootLogin yes",
                 "PasswordAuthentication no", "KbdInteractiveAuthentication no",
                 f"SetEnv PATH={self.desam.parent}:/usr/bin:/bin"]  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # what the service would make; sshd wants it of root alone
        log = (self.folder / "log").open("wb")
        server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return server
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text())

    def cut(self) -> list[psutil.Process]:
        """Ends all connections, as a network does; what they had started."""
        started = psutil.Process(self._server.pid).children(recursive=True)
        connections = [each for each in started if each.name().startswith("sshd")]
        for each in connections:
            each.kill()
        return [each for each in started if each not in connections]

    def stop(self) -> None:
        psutil.wait_procs(self.cut(), 10)
        self._server.kill()
        self._server.wait()
