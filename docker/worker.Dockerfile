# The worker: torch with CUDA, no port, no root. Its steps are the scripts beside it, which tests/docker runs without an engine.
#
#   docker build -f docker/worker.Dockerfile -t tleg-worker .
#   docker run --gpus 1 --shm-size 2g --stop-timeout 90 -e TLEG_REDIS_URL=redis://… -v tleg-data:/data tleg-worker
#
# PyPI's torch carries CUDA's libraries, and the host's driver comes in through NVIDIA's container toolkit, which the NVIDIA_ variables
# below address. So the base is the API's, not one of CUDA's: those would bring the same libraries a second time. On a host without a
# GPU the same image trains on the CPU.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY docker/install-tools.sh docker/requirements-build.lock docker/
RUN --mount=type=cache,target=/root/.cache sh docker/install-tools.sh /opt/tools docker/requirements-build.lock
COPY docker/install-dependencies.sh docker/requirements-worker.lock docker/
RUN --mount=type=cache,target=/root/.cache sh docker/install-dependencies.sh /opt/tools /opt/tleg docker/requirements-worker.lock
COPY docker/install-tleg.sh docker/
COPY pyproject.toml README.md LICENSE ./
COPY tleg_core tleg_core
COPY service service
RUN --mount=type=cache,target=/root/.cache sh docker/install-tleg.sh /opt/tools /opt/tleg

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="tleg worker" \
      org.opencontainers.image.description="Fine-tunes the vision Transformers that the tleg API initialises." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,source=docker/install-compiler.sh,target=/mnt/install-compiler.sh sh /mnt/install-compiler.sh
RUN --mount=type=bind,source=docker/make-user.sh,target=/mnt/make-user.sh sh /mnt/make-user.sh
COPY --from=build /opt/tleg /opt/tleg
COPY docker/health.py /opt/tleg/health.py
# What torch.compile makes is loaded as code, which a tmpfs on /tmp forbids (noexec), and is worth keeping: a folder for a volume.
ENV PATH=/opt/tleg/bin:$PATH PYTHONUNBUFFERED=1 TLEG_DATA_DIR=/data TLEG_PULSE_FILE=/tmp/tleg-worker.pulse \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/tleg/inductor TRITON_CACHE_DIR=/var/cache/tleg/triton \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /data
VOLUME ["/data", "/var/cache/tleg"]
STOPSIGNAL SIGTERM
# A worker has no port: it touches this file while it is well. The engine's first start imports torch, which takes a while.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["sh", "-c", "exec python /opt/tleg/health.py \"$TLEG_PULSE_FILE\" 30"]
CMD ["tleg", "worker"]
