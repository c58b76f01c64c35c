# The images of Kubooth, one target each:
#
#   operator   runs jobs on a cluster: Python, the Kubernetes client, no torch, no weights
#   trainer    trains: torch with the CUDA libraries of its own wheels, DeepSpeed
#
# scripts/image builds them with Docker, Podman or buildah. Everything from the package index is checked against the
# hashes in requirements/. Layers go from what seldom changes to what often does: after a change of code only the last
# one, a few hundred kilobytes of Python, is made anew.
#
# BASE needs Python 3.11 to 3.13 with its venv module as python3; the build and both images stand on the same one.
ARG BASE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

# A user for the processes. The UID is that of the trainer's pods (kubooth_operator/podspec.py). Some libraries ask for
# its name, so it needs a line in /etc/passwd.
FROM ${BASE} AS base
RUN echo 'kubooth:x:1000:1000:Kubooth:/tmp:/usr/sbin/nologin' >> /etc/passwd && \
    echo 'kubooth:x:1000:' >> /etc/group && \
    mkdir /work && chown 1000:1000 /work

# pip and the back-ends that build packages which are published as source. /run/secrets/pip_conf may name another
# index; /run/secrets/ca another authority to trust. Neither is left in a layer.
FROM base AS tools
ENV PIP_CONFIG_FILE=/run/secrets/pip_conf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PATH=/opt/kubooth/bin:$PATH
COPY requirements/build.txt /build/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip_conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    python3 -m venv /opt/kubooth && \
    python -m pip install --require-hashes --no-deps --only-binary :all: --requirement /build/build.txt && \
    echo /opt/code > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/kubooth.pth"

FROM tools AS operator-packages
COPY requirements/operator.txt /build/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip_conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    python -m pip install --require-hashes --no-deps --only-binary :all: --requirement /build/operator.txt && \
    python -m pip uninstall --yes --quiet editables hatchling setuptools uv wheel pip

# DeepSpeed is the only one that is built from source; without torch beside it, it compiles nothing.
FROM tools AS trainer-packages
COPY requirements/trainer.txt /build/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip_conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    python -m pip install --require-hashes --no-deps --no-build-isolation --requirement /build/trainer.txt && \
    python -m pip uninstall --yes --quiet editables hatchling uv wheel pip

FROM tools AS code
COPY pyproject.toml README.md LICENSE /build/
COPY operator /build/operator
COPY trainer /build/trainer
COPY cli /build/cli
RUN python -m pip install --no-deps --no-build-isolation --no-index --target /opt/code /build

# The bill of materials of each image, as CycloneDX: every Python package in it, its version and its licence. Written by a
# tool that stays out of the images, with no time in it, so that its layer stays. What the base holds is for whoever publishes the base to list.
FROM tools AS sbom-tool
COPY requirements/sbom.txt /build/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip_conf \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    python3 -m venv /opt/sbom && \
    /opt/sbom/bin/python -m pip install --require-hashes --no-deps --only-binary :all: --requirement /build/sbom.txt

FROM operator-packages AS operator-sbom
COPY --from=sbom-tool /opt/sbom /opt/sbom
COPY pyproject.toml /build/
COPY --from=code /opt/code /opt/code
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --short-PURLs --pyproject /build/pyproject.toml \
    --output-file /opt/sbom/kubooth.cdx.json /opt/kubooth/bin/python && touch --date=@0 /opt/sbom/kubooth.cdx.json

FROM trainer-packages AS trainer-sbom
COPY --from=sbom-tool /opt/sbom /opt/sbom
COPY pyproject.toml /build/
COPY --from=code /opt/code /opt/code
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --short-PURLs --pyproject /build/pyproject.toml \
    --output-file /opt/sbom/kubooth.cdx.json /opt/kubooth/bin/python && touch --date=@0 /opt/sbom/kubooth.cdx.json

FROM base AS operator
ENV PATH=/opt/kubooth/bin:/opt/code/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /work
USER 1000:1000
COPY --from=operator-packages /opt/kubooth /opt/kubooth
COPY --from=operator-sbom /opt/sbom/kubooth.cdx.json /usr/share/sbom/kubooth.cdx.json
COPY --from=code /opt/code /opt/code
ENTRYPOINT ["python", "-m", "kubooth_operator.main"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kubooth-operator" \
      org.opencontainers.image.description="Runs PersonalizationJobs on a Kubernetes cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Without a C compiler the trainer leaves training.compile out and says so. COMPILER="gcc libc6-dev" (on a base with
# Debian's own Python also python3-dev) brings one, from the base's own package archive.
FROM base AS trainer
ARG COMPILER=
RUN if [ -n "${COMPILER}" ]; then \
      apt-get update && apt-get install --yes --no-install-recommends ${COMPILER} && rm -rf /var/lib/apt/lists/*; \
    fi
ENV PATH=/opt/kubooth/bin:/opt/code/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
USER 1000:1000
COPY --from=trainer-packages /opt/kubooth /opt/kubooth
COPY --from=trainer-sbom /opt/sbom/kubooth.cdx.json /usr/share/sbom/kubooth.cdx.json
COPY --from=code /opt/code /opt/code
ENTRYPOINT ["python", "-m", "kubooth_trainer.launcher"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kubooth-trainer" \
      org.opencontainers.image.description="Personalizes text-to-image models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
