"""Exim as Debian ships it (the light daemon), with its default limits, on loopback addresses."""

import os
import pwd
from pathlib import Path

from ops.brokers.daemon import Daemon
from ops.mta.packages import EXIM, MtaError, libraries, unpacked
from ops.mta.server import USER, MailServer, owned

_BUILT_FOR = "Debian-exim"
"""The user whose name is compiled into Debian's Exim: it does not start where nobody is called so."""

_TLS_FIRST = """\
mail:
  deny condition = ${if def:tls_in_cipher {no}{yes}}
    message = 530 5.7.0 Must issue a STARTTLS command first
  accept"""

_ACL = r"""
rcpt:
  require message = relay not permitted
    domains = \N^.*{domains}\N
  require verify = recipient
  accept
begin routers
known:
  driver = accept
  local_parts = \N{known}\N
  transport = nowhere
begin transports
nowhere:
  driver = appendfile
  file = /dev/null"""


class Exim(MailServer):
    """One daemon for all of its addresses; the limits that matter to a client count for each connection."""

    NAME = "exim"
    ADDRESS = "127.89.2.1"

    def log(self) -> str:
        path = self.folder / "log/mainlog"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _made(self) -> Daemon:
        root = unpacked(EXIM)
        for name in ("spool", "log"):
            owned(self.folder / name, 0o755)
        text = [f"{name} = {value}" for name, value in self._main().items()]
        text += ["begin acl", *([_TLS_FIRST] if self.tls else []), _ACL.format(domains=self.domains, known=self.known)]
        conf = self._write("exim.conf", text)
        return self._daemon_of(
            [str(root / "usr/sbin/exim4"), "-C", str(conf), "-bdf"],
            {"LD_LIBRARY_PATH": libraries(root), **self._users(root)},
            lambda: self.said_since_start("listening for SMTP"),
        )

    def _main(self) -> dict[str, str]:
        """Where things lie and who exists; nothing about limits."""
        encrypted = {"acl_smtp_mail": "mail", "tls_certificate": str(self._own_tls())} if self.tls else {}
        return {
            "primary_hostname": "mx.exim.test",
            "local_interfaces": "<; " + " ; ".join(f"[{address}]:{self.port}" for address in self.addresses),
            "exim_user": USER,
            "exim_group": USER,
            "never_users": "root",
            "log_file_path": f"{self.folder}/log/%slog",
            "log_selector": "+smtp_connection +smtp_incomplete_transaction +smtp_no_mail",
            "spool_directory": f"{self.folder}/spool",
            "pid_file_path": f"{self.folder}/exim.pid",
            "host_lookup": "",
            "rfc1413_query_timeout": "0s",
            "acl_smtp_rcpt": "rcpt",
            **encrypted,
            **self.settings,
        }

    def _users(self, root: Path) -> dict[str, str]:
        """The system's users and one more, by nss_wrapper; the system itself is left as it is."""
        wrapper = next(root.glob("usr/lib/*/libnss_wrapper.so"), None)
        if wrapper is None:
            raise MtaError(f"libnss_wrapper.so is not under {root}")
        user = pwd.getpwnam(USER)
        ids = f"{user.pw_uid}:{user.pw_gid}"
        users = self._with("/etc/passwd", f"{_BUILT_FOR}:x:{ids}::/nonexistent:/usr/sbin/nologin")
        groups = self._with("/etc/group", f"{_BUILT_FOR}:x:{user.pw_gid}:")
        return {"LD_PRELOAD": str(wrapper), "NSS_WRAPPER_PASSWD": str(users), "NSS_WRAPPER_GROUP": str(groups)}

    def _with(self, system: str, line: str) -> Path:
        known = Path(system).read_text(encoding="utf-8").splitlines()
        return self._write(f"nss/{os.path.basename(system)}", [*known, line])
