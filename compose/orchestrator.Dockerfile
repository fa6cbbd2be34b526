# The orchestrator's image. Build from the top of the repository:
#   docker build -f compose/orchestrator.Dockerfile -t aiagentchat/orchestrator:0.1.0 .
#
# Builds with any base that is Debian 12: the public image, or the one that
# runner-image/base-image.sh makes.
ARG BASE=debian:bookworm-20260824-slim

FROM ${BASE} AS python
# e2fsprogs and mount are for rooms with a file system of their own (compose.disks.yaml).
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
      ca-certificates e2fsprogs mount python3 \
 && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/debconf/*-old

FROM python AS build
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv \
 && python3 -m venv /opt/aiagentchat
WORKDIR /source
# What changes rarely comes first: the packages, each by its digest.
COPY requirements.lock .
# Another index or its authorities, where the building host has some: --build-arg PIP_INDEX_URL=….
ARG PIP_INDEX_URL
COPY compose/ca-bundle.pe[m] /tmp/
RUN if [ -s /tmp/ca-bundle.pem ]; then export PIP_CERT=/tmp/ca-bundle.pem; fi \
 && /opt/aiagentchat/bin/pip install --no-cache-dir --no-input --disable-pip-version-check \
      --progress-bar off --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md ./
COPY orchestrator orchestrator
COPY cli cli
COPY docs/man docs/man
COPY runner-image runner-image
RUN /opt/aiagentchat/bin/pip install --no-input --disable-pip-version-check --no-index --no-deps \
      --no-build-isolation . \
 && /opt/aiagentchat/bin/python -m compileall -q /opt/aiagentchat/lib \
 && /opt/aiagentchat/bin/pip uninstall -qy pip setuptools

FROM python
COPY --from=build /opt/aiagentchat /opt/aiagentchat
COPY compose/health.py /opt/aiagentchat/health.py
ENV PATH=/opt/aiagentchat/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1
# Each room's files get an owner of their own, which only root can set up.
USER 0:0
ENTRYPOINT ["orchestrator"]
