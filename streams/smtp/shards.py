"""How a share of a provider is named: work on a large provider is split, and each share has limits of its own."""


def shard_name(provider: str, shard: int, shards: int) -> str:
    """What a provider's sessions are counted under, where work on it is split: ``google#1``; the provider, unsplit."""
    return f"{provider}#{shard}" if shards > 1 else provider


def whole_provider(name: str) -> str:
    """The provider that a :func:`shard_name` belongs to."""
    return name.partition("#")[0]
