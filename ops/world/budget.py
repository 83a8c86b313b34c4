"""How much a server puts up with from one connection: Postfix's error limits and Exim's count of non-mail commands."""

from ops.world.manners import Manners


class Budget:
    """Counts what one connection did wrong, and says what that costs it."""

    __slots__ = ("_junk", "_manners", "_nonmail", "errors")

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._junk = 0
        self._nonmail = 0
        self.errors = 0

    def command(self, verb: str) -> None:
        """RSET, NOOP or VRFY: junk beyond the limit counts as an error (Postfix ``smtpd_junk_command_limit``)."""
        self._junk += 1
        if 0 < self._manners.junk_commands < self._junk:
            self.errors += 1
        # Exim leaves the first RSET out of its count, so that the 12th one is too much (smtp_accept_max_nonmail).
        self._nonmail += verb != "RSET" or self._junk > 1

    @property
    def slow(self) -> bool:
        """Beyond the soft limit each reply is late (Postfix ``smtpd_soft_error_limit``)."""
        return 0 < self._manners.soft_errors < self.errors

    @property
    def spent(self) -> bool:
        """At the hard limit the server hangs up (Postfix ``smtpd_hard_error_limit``)."""
        return 0 < self._manners.hard_errors <= self.errors

    @property
    def too_much_nonmail(self) -> bool:
        """Exim hangs up here."""
        return 0 < self._manners.nonmail_commands < self._nonmail
