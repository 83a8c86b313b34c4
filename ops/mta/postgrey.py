"""postgrey, the greylisting policy server that Debian ships for Postfix."""

import os
import shutil
from itertools import chain

from ops.brokers.daemon import Daemon
from ops.mta.packages import POSTGREY, MtaMissing, libraries, unpacked
from ops.mta.server import USER, Server, owned


class Postgrey(Server):
    """Tells Postfix to refuse each unknown triplet until ``delay_s`` seconds have gone by."""

    def __init__(self, delay_s: int) -> None:
        self.delay_s = delay_s
        super().__init__("postgrey")

    @property
    def restriction(self) -> str:
        """For Postfix's ``smtpd_recipient_restrictions``."""
        return f"check_policy_service unix:{self.folder}/run/socket"

    def log(self) -> str:
        path = self.folder / "output.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _made(self) -> Daemon:
        root = unpacked(POSTGREY)
        perl = shutil.which("perl")
        if perl is None:
            raise MtaMissing("real postgrey needs perl (Debian: apt-get install perl)")
        socket = owned(self.folder / "run", 0o755) / "socket"
        nobody_is_exempt = self.folder / "nobody"
        nobody_is_exempt.touch()
        modules = chain(
            root.glob("usr/share/perl5"), root.glob("usr/share/perl/5*"),
            root.glob("usr/lib/*/perl5/5*"), root.glob("usr/lib/*/perl/5*"),
        )  # fmt: skip
        command = [
            # The script runs in taint mode, where PERL5LIB counts for nothing.
            perl, "-T", *(f"-I{folder}" for folder in modules), str(root / "usr/sbin/postgrey"),
            f"--unix={socket}", f"--dbdir={owned(self.folder / 'db')}", f"--delay={self.delay_s}",
            f"--user={USER}", f"--group={USER}", f"--pidfile={self.folder}/run/pid",
            f"--whitelist-clients={nobody_is_exempt}", f"--whitelist-recipients={nobody_is_exempt}",
        ]  # fmt: skip
        environment = {"LD_LIBRARY_PATH": libraries(root), "HOME": os.devnull}
        return self._daemon_of(command, environment, socket.exists)
