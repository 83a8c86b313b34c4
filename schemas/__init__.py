"""The contract: data only, and nothing of ours is imported from here down.

Start at :mod:`schemas.vocabulary` (verdicts and reasons), :mod:`schemas.request` (what a client writes),
:mod:`schemas.result` (what it reads) and :mod:`schemas.topics` (where).
"""
