"""Bearer keys as the gate checks them; their form is the contract's (:mod:`schemas.bearer`)."""

import hmac

from schemas.bearer import HEADER as HEADER
from schemas.bearer import Claim as Claim
from schemas.bearer import digest as digest
from schemas.bearer import mint as mint
from schemas.bearer import parse as parse
from schemas.signing import Malformed as Malformed


def matches(presented: str, known: tuple[str, ...]) -> bool:
    """Whether the digest is one of those known, in a time that does not tell how nearly."""
    found = False
    for candidate in known:
        found |= hmac.compare_digest(presented.encode(), candidate.encode())
    return found
