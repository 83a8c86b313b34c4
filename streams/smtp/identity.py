"""Who we say we are."""

from dataclasses import dataclass

from streams.smtp.errors import LocalProtocolError
from streams.smtp.session import line, mail_line


@dataclass(frozen=True, slots=True)
class Identity:
    """The name in EHLO (ASCII; should be the reverse DNS of our address) and the envelope sender ("": ``<>``).

    :raises LocalProtocolError: either can't be said in a command.
    """

    helo: str
    mail_from: str = ""

    def __post_init__(self) -> None:
        if not self.helo or " " in self.helo:
            raise LocalProtocolError(f"not a name for EHLO: {self.helo!r}")
        line(f"EHLO {self.helo}")
        mail_line(self.mail_from)
