# ganformer in a container. On a CPU:
#
#     docker build -t ganformer .
#     docker run --rm -v "$PWD:/work" ganformer train
#
# On NVIDIA GPUs, with NVIDIA's container toolkit on the host; this base has nvcc, for the CUDA operators:
#
#     docker build -t ganformer-cuda --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg TORCH_INDEX= .
#     docker run --rm --gpus all --shm-size 1g -v "$PWD:/work" ganformer-cuda train
#
# The quick part of the tests: docker build --target test .
# Without Docker, .ci/dockerfile.py runs the same RUN lines in a folder with a bare Debian (see CONTRIBUTING.md).

ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# Where pip finds torch: an index of CPU builds; empty for pip's own, whose torch for Linux has CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
WORKDIR /opt/ganformer
COPY . .
RUN pip install -r requirements.txt -e ".[film,hub,plots,tensorboard]"
# The operators, for every CPU that the image may run on, and for GPUs where the base has nvcc.
ENV GANFORMER_OPS_FOLDER=/opt/ganformer-ops
RUN ganformer build-ops --cpu AVX512,AVX2,DEFAULT && ganformer doctor

FROM build AS test
RUN pip install -r requirements.txt -e ".[test]"
RUN pytest -m "not slow"

FROM build
# What is downloaded later, by whatever user the container has; mount a volume here to keep it.
ENV GANFORMER_CACHE=/var/cache/ganformer
RUN mkdir -m 1777 /var/cache/ganformer
WORKDIR /work
ENTRYPOINT ["ganformer"]
CMD ["--help"]
