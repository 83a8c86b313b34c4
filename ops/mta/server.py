"""What the mail servers share: a folder of their own, a process that never outlives us, a log that can be read."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from ops.brokers.base import BrokerError, free_port
from ops.brokers.daemon import Daemon, wait_until
from ops.mta.packages import MtaError, MtaMissing

USER = "mail"
"""Whom the servers change to: Debian has it on every machine, and nothing else runs as it."""

START_S = 30.0

_WATCH = 'trap \'kill -TERM "$child"\' TERM; "$@" & child=$!; while kill -0 "$child" 2>&-; do wait "$child"; done'
"""Linux forgets the parent-death signal of whoever changes its user, as mail servers do: a shell keeps it for them."""


class Server(ABC):
    """One mail server, started as often as asked; ``with`` ends it and removes its folder."""

    def __init__(self, name: str) -> None:
        """:raises MtaMissing: we are not root."""
        if os.geteuid() != 0:
            raise MtaMissing(f"real {name} changes to a user of its own and must be started by root: run this as root")
        self.name = name
        # Not in the cache: the servers' users must be able to reach it.
        self.folder = Path(tempfile.mkdtemp(prefix=f"mailvet-{name}-"))
        self.folder.chmod(0o711)
        self._seen = 0
        try:
            self._daemon = self._made()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _made(self) -> Daemon:
        """Write the configuration; the process that serves it, not yet started."""

    @abstractmethod
    def log(self) -> str:
        """All that it has logged."""

    def start(self) -> None:
        """Start, and wait until it serves.

        :raises MtaError: it ended, or did not serve in time.
        """
        self._seen = len(self.log())
        try:
            self._daemon.start()
        except BrokerError as error:
            raise MtaError(f"{error} | {self.log()[-500:]}") from None

    def stop(self) -> None:
        """End it with every connection; its folder stays, so that it can be started again."""
        pid = self._daemon.pid
        self._daemon.stop()
        if pid is not None:  # those that still speak with a client: they are in its process group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """End it for good. Calling it twice does no harm."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said_since_start(self, words: str) -> bool:
        """Whether the log has ``words`` in it since the last start."""
        return words in self.log()[self._seen :]

    def _daemon_of(self, command: Sequence[str], environment: Mapping[str, str], ready: Callable[[], bool]) -> Daemon:
        setpriv = shutil.which("setpriv")
        watch = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        return Daemon(
            [*watch, "/bin/sh", "-c", _WATCH, "sh", *command],
            log=self.folder / "output.log",
            ready=ready,
            start_timeout=START_S,
            name=self.name,
            environment={"PATH": os.environ.get("PATH", ""), **environment},
        )


class MailServer(Server):
    """One that takes mail on a port of each of ``addresses``, as so many servers as far as limits are counted.

    Mailboxes of the domains that ``domains`` matches exist when their local part, or the whole address where
    the server looks at that, matches ``known`` (regular expressions). ``settings`` are options of its configuration
    file, beyond the defaults; ``tls``: a file with a key and its certificate, without which the server then takes no
    mail (530).
    """

    NAME: ClassVar[str]
    ADDRESS: ClassVar[str]
    """Where it listens if nothing else is said."""

    def __init__(
        self,
        addresses: Sequence[str] = (),
        *,
        port: int = 0,
        domains: str = r"\.test$",
        known: str = "^user[0-9]*(@|$)",
        settings: Mapping[str, str] | None = None,
        tls: Path | None = None,
    ) -> None:
        self.addresses = tuple(addresses) or (self.ADDRESS,)
        self.port = port or free_port()
        self.domains, self.known = domains, known
        self.settings = dict(settings or {})
        self.tls = tls
        super().__init__(self.NAME)

    def stop(self) -> None:
        """The same, and nobody listens on its port any more: children may outlive their master for a moment."""
        super().stop()
        wait_until(self._deaf, timeout=START_S, what=f"the port of {self.name} was not given up")

    def _deaf(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.addresses[-1], self.port))
            except OSError:
                return False
        return True

    def _write(self, name: str, lines: Sequence[str]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        # Postfix does not trust a file before it is two seconds old: it might be half written.
        hour_ago = path.stat().st_mtime - 3600
        os.utime(path, (hour_ago, hour_ago))
        return path

    def _own_tls(self) -> Path:
        """A copy of the key that the server's user may read."""
        copy = self.folder / "tls.pem"
        shutil.copyfile(self.tls or "", copy)
        shutil.chown(copy, USER)
        copy.chmod(0o400)
        return copy


def owned(folder: Path, mode: int = 0o700, *, user: str = USER, group: str | None = None) -> Path:
    """A new folder that belongs to the server's user."""
    folder.mkdir(parents=True)
    shutil.chown(folder, user, group or pwd.getpwnam(user).pw_gid)
    folder.chmod(mode)
    return folder
