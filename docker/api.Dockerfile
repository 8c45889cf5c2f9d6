# The API: no torch, no Redis of its own, no root. Its steps are the scripts beside it, which tests/docker runs without an engine.
#
#   docker build -f docker/api.Dockerfile -t tleg-api .
#   docker run -p 8000:8000 -e TLEG_REDIS_URL=redis://… -v tleg-data:/data tleg-api

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY docker/install-tools.sh docker/requirements-build.lock docker/
RUN --mount=type=cache,target=/root/.cache sh docker/install-tools.sh /opt/tools docker/requirements-build.lock
COPY docker/install-dependencies.sh docker/requirements-api.lock docker/
RUN --mount=type=cache,target=/root/.cache sh docker/install-dependencies.sh /opt/tools /opt/tleg docker/requirements-api.lock
COPY docker/install-tleg.sh docker/
COPY pyproject.toml README.md LICENSE ./
COPY tleg_core tleg_core
COPY service service
RUN --mount=type=cache,target=/root/.cache sh docker/install-tleg.sh /opt/tools /opt/tleg

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="tleg API" \
      org.opencontainers.image.description="Initialised vision Transformers of any depth, expanded on demand from a trained learngene." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,source=docker/make-user.sh,target=/mnt/make-user.sh sh /mnt/make-user.sh
COPY --from=build /opt/tleg /opt/tleg
COPY docker/health.py /opt/tleg/health.py
ENV PATH=/opt/tleg/bin:$PATH PYTHONUNBUFFERED=1 TLEG_HOST=0.0.0.0 TLEG_PORT=8000 TLEG_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# Ready, not only alive: `docker compose up --wait` returns when requests are served. Nothing is restarted for being unready.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "exec python /opt/tleg/health.py http://127.0.0.1:$TLEG_PORT/readyz"]
# The workers are containers of their own: --workers 0.
CMD ["tleg", "serve", "--workers", "0"]
