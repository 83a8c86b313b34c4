"""Postfix as Debian ships it, with its default limits, on loopback addresses."""

from pathlib import Path

from ops.brokers.daemon import Daemon
from ops.mta.packages import POSTFIX, libraries, unpacked
from ops.mta.server import USER, MailServer, owned

_GROUP = "utmp"
"""Postfix wants a group that nobody else of its users has (setgid_group)."""

_LIFE_S = "7200"
"""It ends by itself then, should everybody be gone who could end it."""

_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")
_SERVICES = (
    "cleanup unix n - n - 0 cleanup",
    "rewrite unix - - n - - trivial-rewrite",
    "proxymap unix - - n - - proxymap",
    "anvil unix - - n - 1 anvil",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "qmgr unix n - n 300 1 qmgr",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "discard unix - - n - - discard",
    "postlog unix-dgram n - n - 1 postlogd",
)
"""What smtpd needs up to the reply to RCPT, and a queue that throws away whatever might come after it."""


class Postfix(MailServer):
    """Each address is a service of its own, so that anvil counts connections and rates for each.

    Of several addresses none waits for tokens (``in_flow_delay``): an instance has a hundred of them for all its
    services together, and each transaction takes one that only a delivered message gives back.
    """

    NAME = "postfix"
    ADDRESS = "127.89.1.1"

    def log(self) -> str:
        path = self.folder / "maillog"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _made(self) -> Daemon:
        root = unpacked(POSTFIX)
        self._folders()
        self._write("conf/domains", [f"/{self.domains}/ ok"])
        self._write("conf/mailboxes", [f"/{self.known}/ ok"])
        self._write("conf/main.cf", [f"{name} = {value}" for name, value in self._main(root).items()])
        services = [f"{address}:{self.port} inet n - n - - smtpd" for address in self.addresses]
        conf = self._write("conf/master.cf", [*services, *_SERVICES]).parent
        return self._daemon_of(
            [str(root / "usr/lib/postfix/sbin/master"), "-c", str(conf), "-s", "-e", _LIFE_S],
            {"MAIL_CONFIG": str(conf), "LD_LIBRARY_PATH": libraries(root)},
            lambda: self.said_since_start("daemon started"),
        )

    def _folders(self) -> None:
        queue = self.folder / "queue"
        queue.mkdir()
        (queue / "pid").mkdir()
        for name in _QUEUES:
            owned(queue / name)
        owned(queue / "public", 0o710, group=_GROUP)
        owned(queue / "maildrop", 0o730, group=_GROUP)
        owned(self.folder / "data")

    def _main(self, root: Path) -> dict[str, str]:
        """``main.cf``: where things lie, who exists, and nothing about limits."""
        folder = self.folder
        tls = ("smtpd_tls_cert_file", "smtpd_tls_key_file") if self.tls else ()
        encrypted = {"smtpd_tls_security_level": "encrypt"} | dict.fromkeys(tls, self._own_tls()) if tls else {}
        return {
            "compatibility_level": "3.6",
            "mail_owner": USER,
            "setgid_group": _GROUP,
            "default_privs": "nobody",
            "queue_directory": str(folder / "queue"),
            "data_directory": str(folder / "data"),
            "daemon_directory": str(root / "usr/lib/postfix/sbin"),
            "command_directory": str(root / "usr/sbin"),
            "maillog_file": str(folder / "maillog"),
            "maillog_file_prefixes": str(folder),
            "import_environment": "MAIL_CONFIG LD_LIBRARY_PATH LANG=C",
            "myhostname": "mx.postfix.test",
            "mydestination": "",
            "alias_maps": "",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "ipv4",
            # A client on loopback is a stranger like any other: limits do not count for $mynetworks.
            "mynetworks": "192.0.2.1/32",
            "smtpd_peername_lookup": "no",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "virtual_mailbox_domains": f"regexp:{folder}/conf/domains",
            "virtual_mailbox_maps": f"regexp:{folder}/conf/mailboxes",
            "virtual_transport": "discard:",
            **({"in_flow_delay": "0s"} if len(self.addresses) > 1 else {}),
            **encrypted,
            **self.settings,
        }
