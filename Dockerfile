# The studio in a container, with the versions of constraints.txt. CONTRIBUTING.md says how to build and run it.
#   docker build -t shotstream .                              CPU
#   docker build -t shotstream:cuda --build-arg TARGET=cuda . CUDA: run it with --gpus all
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-trixie

ARG TARGET=cpu
# PyTorch's index of CPU builds, as its own page of instructions gives it; empty: the default build, which is larger.
ARG TORCH_INDEX=
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# Chromium, git and compilers are not needed, but Triton compiles a small C file when a GPU kernel is first run.
# Versions are Debian's: the base image's release pins them.
# hadolint ignore=DL3008
RUN if [ "$TARGET" = cuda ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /opt/shotstream
COPY constraints.txt ./
# First what is large and seldom changes. The default torch is the CUDA build.
RUN case "$TARGET" in \
      cpu) pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch ;; \
      cuda) pip install -c constraints.txt torch ;; \
      *) echo "TARGET is $TARGET; give cpu or cuda" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY shotstream shotstream
COPY tests/assets/goldens tests/assets/goldens
RUN pip install -c constraints.txt '.[studio,postgres,wan]' && shotstream verify

RUN useradd --create-home --uid 1000 director && install -d -o director -g director /data
USER 1000
WORKDIR /data
VOLUME /data
EXPOSE 8720
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8720/healthz', timeout=4)"]
ENTRYPOINT ["shotstream"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data/studio"]
