#!/bin/sh
# See that the tests can have a real Apache Kafka: given, in a container, or from its jars (Java and Maven).
# Never fails: the tests say what they miss, and with CI=true they fail without it.
set -eu

[ -z "${KAFKA_BOOTSTRAP_SERVERS:-}" ] || exit 0
! { command -v docker >/dev/null && docker info >/dev/null 2>&1; } || exit 0
! { command -v java >/dev/null && command -v mvn >/dev/null; } || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        default-jre-headless maven || echo "Java and Maven could not be installed." >&2
else
    echo "No Docker, and no Java and Maven: the tests have no real Kafka." >&2
    echo "Install them: sudo apt-get install default-jre-headless maven" >&2
fi
