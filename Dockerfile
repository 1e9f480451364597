# Three images from one file, each with its dependencies locked in deploy/locks/ (`make lock`):
#   cpu    serves without a GPU                          docker build --target cpu -t flawscribe:cpu .
#   gpu    serves on CUDA 13, libraries from wheels      docker build --target gpu -t flawscribe:gpu .
#   train  gpu and PyTorch: trains, and serves           docker build --target train -t flawscribe:train .
# The base is plain Debian, so that `deploy/debian_engine.sh` can make the same base with debootstrap where no registry is at
# hand. For builds that can be repeated to the byte, pin it: --build-arg BASE=debian:13-slim@sha256:…
ARG BASE=debian:13-slim

FROM ${BASE} AS base
# No versions: a stable release changes by security fixes alone, and those are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /usr/share/doc /usr/share/man \
 && groupadd --gid 10001 flawscribe \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin flawscribe \
 && install -d -o flawscribe -g flawscribe /data /keys

# ---- the package, and what makes it
FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY deploy/locks/build.txt ./
RUN python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r build.txt
COPY deploy/image/install.sh /usr/local/bin/
# for the SBOM: Debian's packages as the images have them
COPY --from=base /var/lib/dpkg/status /base/var/lib/dpkg/status

FROM build AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist .

# ---- one environment per image: first what is locked, which changes seldom, then the package
FROM build AS env-cpu
COPY deploy/locks/cpu.txt ./
RUN install.sh locked cpu.txt
COPY --from=wheel /dist /dist
RUN install.sh package /dist

FROM build AS env-gpu
COPY deploy/locks/gpu.txt ./
RUN install.sh locked gpu.txt
COPY --from=wheel /dist /dist
RUN install.sh package /dist

FROM build AS env-train
COPY deploy/locks/train.txt ./
RUN install.sh locked train.txt
COPY --from=wheel /dist /dist
RUN install.sh package /dist

# ---- what every image runs
FROM base AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Flawscribe" \
      org.opencontainers.image.description="Visual inspection: is a part anomalous, where, and in words" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# /opt/flawscribe: the program and the demo model, read-only. /data: models and records. /keys: hashed API keys.
ENV PATH=/opt/flawscribe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    FLAWSCRIBE_HOST=0.0.0.0 \
    FLAWSCRIBE_KEYS_FILE=/keys/keys.json \
    FLAWSCRIBE_MODELS_DIR=/data/models \
    FLAWSCRIBE_RECORDS_DIR=/data/records \
    FLAWSCRIBE_TRAININGS_DIR=/data/trainings \
    FLAWSCRIBE_PRODUCTS_DIR=/opt/flawscribe/products
COPY deploy/image/first-run.sh /usr/local/bin/first-run
COPY deploy/products /opt/flawscribe/products
COPY models/polka-dot/1 /opt/flawscribe/models/polka-dot/1
WORKDIR /data
USER 10001:10001
EXPOSE 8000
# Running requests get FLAWSCRIBE_DRAIN_S (20 s), words that were promised as long again: `docker stop --time 60`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=90s --retries=3 CMD ["python", "-IS", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('FLAWSCRIBE_PORT', '8000') + '/readyz', timeout=4)"]
CMD ["flawscribe", "serve"]

FROM runtime AS gpu
COPY --from=env-gpu /opt/flawscribe /opt/flawscribe
ENV FLAWSCRIBE_PROVIDER=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS train
COPY --from=env-train /opt/flawscribe /opt/flawscribe
COPY models/teachers /opt/flawscribe/models/teachers
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# last, so that `docker build .` makes it
FROM runtime AS cpu
COPY --from=env-cpu /opt/flawscribe /opt/flawscribe
