"""Where a domain's mail goes: start at :class:`streams.dns.resolver.MailResolver` and :mod:`streams.dns.answers`."""
