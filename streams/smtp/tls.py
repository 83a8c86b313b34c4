"""Opportunistic TLS (RFC 7435): any certificate will do, since nothing but addresses is said and no peer is trusted."""

import ssl
from functools import cache


@cache
def unverified_context() -> ssl.SSLContext:
    """One context for all sessions; reading no certificate store, it is cheap to make."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
