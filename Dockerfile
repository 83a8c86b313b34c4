# mailvet: one image, all roles. `docker run mailvet worker --role probe`, `docker run mailvet check ...`
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# Two environments: the one that builds stays behind, the one that runs has no pip.
RUN python -m venv /build && python -m venv --without-pip /opt/mailvet
COPY requirements-build.lock requirements-runtime.lock ./
RUN /build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
    && /build/bin/pip --python /opt/mailvet/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
       -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY streams streams
COPY ops ops
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /build/bin/pip --python /opt/mailvet/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl \
    && /opt/mailvet/bin/python -m compileall -q /opt/mailvet/lib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="mailvet" \
      org.opencontainers.image.description="Tells whether mailboxes exist, as an event stream on Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 mailvet \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/mailvet --create-home --shell /usr/sbin/nologin mailvet
COPY --from=build /opt/mailvet /opt/mailvet
ENV PATH=/opt/mailvet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MAILVET_METRICS_HOST=0.0.0.0 \
    MAILVET_METRICS_PORT=9464
USER 10001:10001
WORKDIR /var/lib/mailvet
EXPOSE 9464
# Is the event loop turning? Whether partitions are assigned is /health/ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"MAILVET_METRICS_PORT\"]}/health/live', timeout=4)"]
ENTRYPOINT ["mailvet"]
CMD ["worker", "all"]
