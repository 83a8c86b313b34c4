"""Real mail servers on loopback for tests and benchmarks: Debian's Postfix, Exim and postgrey, unpacked, not installed.

They know nothing of ``streams``: what they do is theirs.
"""
