"""All that an address tells by itself: its syntax, and what the lists know of it. No network, no waiting."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from streams.checks.evidence import Prepared
from streams.checks.lists import Lists
from streams.checks.suggest import suggest
from streams.checks.syntax import Malformed, parse_mailbox
from streams.dns.cache import DOMAINS

# RFC 5233 leaves the separator to the site. Elsewhere than after a plus sign nothing tells a tag from a name: a hyphen
# separates one at a few sites, and stands in ordinary names at all the others.
_TAG = "+"


@dataclass(frozen=True, slots=True)
class _DomainFacts:
    free: bool
    disposable: bool
    meant: str | None


class Precheck:
    """Prepares addresses against one set of lists; safe to share, and quick on domains that come again."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._facts: Callable[[str], _DomainFacts] = lru_cache(maxsize=DOMAINS)(self._look_up)

    def __call__(self, text: str) -> Prepared:
        """Everything known of one address as its client wrote it. Never raises."""
        mailbox = parse_mailbox(text)
        if isinstance(mailbox, Malformed):
            return Prepared(input=text, syntax_error=mailbox.sentence)
        facts = self._facts(mailbox.domain)
        local, domain, normalized, ascii_address, smtputf8 = mailbox
        return Prepared(
            input=text,
            address=ascii_address or normalized,
            normalized=normalized,
            ascii_address=ascii_address,
            local=local,
            domain=domain,
            smtputf8=smtputf8,
            role=self._lists.is_role(local),
            free=facts.free,
            disposable=facts.disposable,
            alias=_TAG in local and _has_tag(local),
            suggestion=facts.meant and f"{local}@{facts.meant}",
        )

    def _look_up(self, domain: str) -> _DomainFacts:
        if domain.startswith("["):
            return _DomainFacts(free=False, disposable=False, meant=None)
        lists = self._lists
        return _DomainFacts(lists.is_free(domain), lists.is_disposable(domain), suggest(domain, lists))


def _has_tag(local: str) -> bool:
    """``user+tag``; a plus sign at either end separates nothing."""
    return _TAG in local.strip(_TAG) and not local.startswith('"')
