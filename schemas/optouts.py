"""The do-not-probe list as records: domains whose mail servers are not asked, and who put them there."""

from typing import Annotated

from pydantic import Field

from schemas.base import Instant, Part, Record

MAX_HISTORY = 20
"""Changes of one domain that are kept; its newest record stays for good."""


class OptOutChange(Part):
    """One change: who, when, why, and whether the domain was on the list after it."""

    listed: bool
    actor: str
    why: str
    at: Instant


class OptOut(Record):
    """How a domain stands (``opt-outs.v1``, keyed by domain; compacted, so the newest record says all).

    It speaks of the domain and of all below it. Taking a domain off the list writes a record too, and never a
    tombstone: who did it, and why, stays known.
    """

    domain: str = Field(description="In ASCII and lower case.")
    changes: Annotated[tuple[OptOutChange, ...], Field(min_length=1, max_length=MAX_HISTORY)] = Field(
        description="The newest last."
    )

    @property
    def listed(self) -> bool:
        """Whether it is on the list."""
        return self.changes[-1].listed

    def after(self, change: OptOutChange) -> "OptOut":
        """The record after one more change; the oldest ones are forgotten."""
        return self.model_copy(update={"changes": (*self.changes, change)[-MAX_HISTORY:]})
