"""A network of our own for contestants that know only port 25 and the system's resolver (Linux, unshare(1)).

Nothing leaves the machine: inside there is loopback alone, and ``/etc/resolv.conf`` names the sink.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ops.bench.contest import ROOT
from ops.cli.errors import UserError

INSIDE = "MAILVET_BENCH_NAMESPACE"
RESOLV_CONF = "nameserver 127.0.0.1\noptions timeout:5 attempts:3\n"
_SETUP = 'ip link set lo up && mount --bind "$1" "$(readlink -f /etc/resolv.conf)" && shift && exec "$@"'


def inside() -> bool:
    """Whether this process runs in such a network."""
    return os.environ.get(INSIDE) == "1"


def rerun_inside(arguments: Sequence[str]) -> int:
    """Run ``mailvet`` with these arguments in a network of its own; its exit code.

    :raises UserError: the system does not let us make one.
    """
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        raise UserError("peers need a network namespace: install unshare (util-linux) and ip (iproute2)")
    with TemporaryDirectory() as folder:
        resolv = Path(folder) / "resolv.conf"
        resolv.write_text(RESOLV_CONF, encoding="ascii")
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        unshare = ["unshare", "--net", "--mount", *user, "--", "sh", "-c", _SETUP, "sh", str(resolv)]
        mailvet = [sys.executable, "-m", "ops.cli.main", *arguments]
        return subprocess.run(  # noqa: S603
            [*unshare, *mailvet], cwd=ROOT, env={**os.environ, INSIDE: "1"}, check=False
        ).returncode
