#!/bin/sh
# See that the tests can have real mail servers: Debian's Postfix, Exim and postgrey, unpacked into the cache.
# Never fails: the tests say what they miss, and with CI=true they fail without it.
set -u

if ! { command -v apt-get && command -v dpkg-deb; } >/dev/null; then
    echo "No apt-get and dpkg-deb (Debian): the tests have no real mail servers." >&2
    exit 0
fi
# A fresh container knows no packages yet.
if [ "$(id -u)" = 0 ] && ! apt-cache show postfix postgrey exim4-daemon-light libnss-wrapper >/dev/null 2>&1; then
    apt-get update -q || true
fi
.venv/bin/python -m ops.mta.packages || true
