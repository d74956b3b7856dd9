# syntax=docker/dockerfile:1
# fastlift with its kernels built. Two images:
#   docker build --target cuda -t fastlift .       for NVIDIA GPUs: CUDA comes with torch's wheels, the host needs its driver and
#                                                  the NVIDIA container toolkit (docker run --gpus all)
#   docker build --target cpu -t fastlift:cpu --build-arg TORCH_INDEX=URL .
#                                                  URL: the index of torch's CPU wheels, which pytorch.org names
# Run as: docker run --rm -it -v "$PWD:/work" -v fastlift-cache:/cache fastlift train
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in CMakeLists.txt CMakePresets.json README.md LICENSE ./
COPY kernels kernels
COPY fastlift fastlift
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm AS base
# A compiler: torch.compile makes C++, and Triton links its launchers, while fastlift runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 fastlift && mkdir /work /cache && chown fastlift /work /cache
ENV PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton
WORKDIR /work
ENTRYPOINT ["fastlift"]
CMD ["--help"]

FROM base AS cpu
ARG TORCH_INDEX
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 'torch>=2.9' 'torchvision>=0.24'
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(find /wheels -name 'fastlift-*.whl')[onnx,remote,transformers]"
USER 1000

FROM base AS cuda
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(find /wheels -name 'fastlift-*.whl')[dali,onnx,remote,transformers]"
USER 1000
