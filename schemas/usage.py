"""What a key used on a UTC day, as one record that grows: the newest says all of that day."""

from typing import Annotated

from pydantic import Field

from schemas.base import Name, Record
from schemas.vocabulary import Reason, Verdict

LATENCY_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 10800.0)
"""Upper bounds of the counts in :attr:`Usage.latency`, in seconds; what took longer is counted behind the last."""


class Usage(Record):
    """What a key used on a UTC day (``usage.v1``, keyed by tenant:key:day; compacted).

    Each record holds the whole of the day so far: of several the one with the highest ``revision`` counts, however
    often and in whatever order they come. A request belongs to the day on which it was decided, whenever it ended.
    """

    tenant: Name
    key: Name
    day: str = Field(description="The UTC day, YYYY-MM-DD.")
    revision: int = Field(default=0, description="How many decisions and settlements are counted.")
    requests: int = Field(default=0, description="Admitted.")
    addresses: int = Field(default=0, description="Of admitted requests: what was charged.")
    refused: dict[Reason, int] = Field(default_factory=dict, description="Requests, by why they were not served.")
    settled: int = Field(default=0, description="Admitted requests that have ended.")
    verdicts: dict[Verdict, int] = Field(default_factory=dict, description="Addresses of settled requests.")
    given_back: int = Field(default=0, description="Addresses of settled requests that cost nothing.")
    seconds: float = Field(default=0.0, description="From admission to the summary, of all settled requests together.")
    latency: Annotated[tuple[int, ...], Field(min_length=len(LATENCY_BOUNDS_S) + 1)] = Field(
        default=(0,) * (len(LATENCY_BOUNDS_S) + 1),
        description="Settled requests by how long they took: up to 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, "
        "3600, 10800 seconds, and longer.",
    )

    @property
    def record_key(self) -> str:
        """Its key on the topic."""
        return f"{self.tenant}:{self.key}:{self.day}"
