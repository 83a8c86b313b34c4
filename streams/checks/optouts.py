"""The do-not-probe list as whoever would ask a mail server sees it: may this domain be asked?"""

from collections.abc import Iterable

from streams.checks.lists import suffixes


class OptOuts:
    """Domains that are not asked, each with all below it. In ASCII; safe to ask while it changes.

    ``fixed``: those of the operator's file, which nothing takes off again.
    """

    def __init__(self, fixed: Iterable[str] = ()) -> None:
        self._fixed = frozenset(fixed)
        self._listed: set[str] = set()

    def __len__(self) -> int:
        return len(self._fixed | self._listed)

    def __call__(self, domain: str) -> bool:
        """Whether the domain is not to be asked."""
        if not (self._fixed or self._listed):
            return False
        return any(name in self._fixed or name in self._listed for name in suffixes(domain))

    def put(self, domain: str, *, listed: bool) -> None:
        """On the list from now on, or off it."""
        (self._listed.add if listed else self._listed.discard)(domain)
