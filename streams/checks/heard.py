"""What the probes of one write have in common, so that it is made once."""

from schemas.vocabulary import Stage
from streams.checks.catch_all import CatchAll
from streams.checks.evidence import Failure, Probe
from streams.checks.jobs import Job
from streams.checks.reply_rules import Match
from streams.smtp._async.connection import AsyncSMTPConnection
from streams.smtp.replies import Reply


class Heard:
    """The replies to one write: who was asked, and when they had come (``now``)."""

    __slots__ = ("connection", "mx_host", "now", "sender", "service_told")

    def __init__(self, connection: AsyncSMTPConnection, now: float) -> None:
        self.connection = connection
        self.mx_host = connection.host.name if connection.host else None
        self.sender = connection.identity.mail_from
        self.now = now
        self.service_told = False
        """Since the last of these replies that was about us, the pool was told that the server speaks of mailboxes."""

    def probe(
        self,
        stage: Stage,
        reply: Reply | None = None,
        *,
        failure: Failure | None = None,
        detail: str = "",
        job: Job | None = None,
        catch_all: CatchAll | None = None,
        meaning: Match | None = None,
    ) -> Probe:
        """``catch_all`` is what was known of the domain when the reply came."""
        queued_ms, smtp_ms = job.times(self.now) if job else (0, 0)
        return Probe(
            stage,
            reply,
            failure,
            detail,
            mx_host=self.mx_host,
            mx_address=self.connection.key[0],
            provider=self.connection.provider,
            catch_all=catch_all.accepts if catch_all else None,
            catch_all_reply=catch_all.reply if catch_all else None,
            cached=catch_all is not None and reply is not None and reply.positive,
            queued_ms=queued_ms,
            smtp_ms=smtp_ms,
            meaning=meaning,
            way=self.connection.way,
        )
