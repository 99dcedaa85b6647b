# The environment of uv.lock, with the project and its embedded images, on a base pinned by digest.
#
#   containers/build                                     # builds it, with labels, and says its ID
#   docker run --rm --network none --read-only --tmpfs /tmp IMAGE verify simclr-resnet-bn-s0
#
# Where no registry can be reached, BASE_IMAGE names another base with Python 3.11 and venv:
# containers/stand-in makes one from Debian packages. It has to be given as NAME@DIGEST.
#
# Two builds of one commit give the same image ID. So the final stage runs nothing and only copies, and
# what a build would otherwise date or log (compiled files, caches) is dated by SOURCE_DATE_EPOCH or
# stays in the first stage.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba

FROM ${BASE_IMAGE} AS build
ARG SOURCE_DATE_EPOCH=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/environment PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0

# A package index with a certificate authority or a configuration of its own is a secret of the build
# (`--secret id=ca,src=…`, `--secret id=pip,src=…`, `--secret id=uv,src=…`), and no layer holds it.
COPY --chmod=644 containers/uv.txt /build/uv.txt
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    set -eu; \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    python3 -m venv /build/uv; \
    /build/uv/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary :all: -r /build/uv.txt

# The context is a commit (`git archive`), so that nothing else can come in.
COPY . /opt/benchmark
WORKDIR /opt/benchmark
RUN --mount=type=secret,id=ca --mount=type=secret,id=uv \
    set -eu; \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    if [ -s /run/secrets/uv ]; then export UV_CONFIG_FILE=/run/secrets/uv; fi; \
    /build/uv/bin/uv sync --quiet --locked --no-dev --no-editable --compile-bytecode --python "$(command -v python3)"; \
    # uv notes when it read the project's files, for its own cache.
    cd /opt/environment/lib/python*/site-packages/ssl_norm_benchmark-*.dist-info; \
    rm uv_cache.json; \
    sed -i '/uv_cache\.json/d' RECORD; \
    cd /opt/benchmark; \
    /opt/environment/bin/python containers/sbom.py /build/uv/bin/uv > sbom.json

ARG BASE_IMAGE
ARG COMMIT=unknown
RUN set -eu; \
    /opt/environment/bin/python containers/identity.py "$COMMIT" "$BASE_IMAGE" > image.json; \
    /opt/environment/bin/benchmark data mini; \
    chmod -R u=rwX,go=rX /opt/benchmark /opt/environment

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG BASE_DIGEST=sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba
ARG COMMIT=unknown
ARG LOCK_SHA256=unknown
LABEL org.opencontainers.image.title="Normalization in self-supervised learning, measured fairly" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      benchmark.lock.sha256="${LOCK_SHA256}"
COPY --from=build /opt /opt
ENV PATH=/opt/environment/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp USER=benchmark LOGNAME=benchmark \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib DVC_SITE_CACHE_DIR=/tmp/dvc DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/benchmark
USER 65532:65532
ENTRYPOINT ["benchmark"]
CMD ["doctor"]
