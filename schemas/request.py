"""What a client writes to ``requests.v1``."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints

from schemas.base import Inbound, Instant, RequestId
from schemas.vocabulary import Depth, Lane

MAX_ADDRESSES = 1000
MAX_INPUT_LENGTH = 1024
"""Characters of one input; RFC 5321 allows an address 254 octets, and the rest is room for stray spaces."""

MAX_REQUEST_BYTES = 1024 * 1024
"""A larger record is a dead letter: 1,000 addresses of 254 octets are a quarter of this."""

Input = Annotated[str, StringConstraints(max_length=MAX_INPUT_LENGTH)]


class Options(BaseModel):
    """What a client may choose for one request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catch_all_probe: bool = Field(
        default=True,
        description="Ask for a mailbox that can't exist, to learn whether the domain accepts everything.",
    )
    retry: bool = Field(
        default=True,
        description="Ask again later where the server said so; otherwise the first answer is final.",
    )


class Request(Inbound):
    """1 to 1,000 addresses to verify. The credential travels in a record header, never in the value."""

    request_id: RequestId = Field(description="The client's own id; the same id with another body is rejected.")
    # The first wrong address ends the validation: a megabyte of them would cost seconds of error objects.
    addresses: Annotated[tuple[Input, ...], Field(min_length=1, max_length=MAX_ADDRESSES), FailFast()]
    depth: Depth = Depth.SMTP
    lane: Lane | None = Field(default=None, description="Without one, small requests are interactive.")
    verdict_by: Instant | None = Field(
        default=None,
        description="When every address shall have its verdict: what is known by then is the answer.",
    )
    options: Options = Options()


class Cancel(Inbound):
    """The end of a request: its undecided addresses are answered at once. Written and proven as a request is."""

    request_id: RequestId = Field(description="The client's own id of the request that shall end.")
    cancel: Literal[True] = True


def request_uid(tenant: str, request_id: str) -> str:
    """SHA-256 over both names, each prefixed by its length, so that no two pairs run together."""
    digest = hashlib.sha256()
    for name in (tenant, request_id):
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()
