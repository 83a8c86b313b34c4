"""The SMTP pool: sessions with mail servers, shared, polite and pipelined. Knows no Kafka, no metrics, no pydantic.

Start at :class:`streams.smtp._async.pool.AsyncSMTPPool`; ``docs/pool.md`` tells the whole.
"""
