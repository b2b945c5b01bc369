# sansref in a container, for the GPU or the CPU, without a trained run:
#
#   docker build -t sansref .                                        for a GPU: the build of PyTorch that pip takes
#   docker build -t sansref:cpu --build-arg TORCH_INDEX=URL .        URL: the index of CPU builds that pytorch.org names
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" sansref sansref info /data/scan.h5
#
# PyTorch brings the CUDA libraries that it needs: the host has the driver and NVIDIA's container toolkit, no more.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
COPY pyproject.toml README.md LICENSE /sources/
COPY src /sources/src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /sources

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG EXTRAS=raw,classical
# PyTorch first and alone: the layer stays while sansref changes, and nothing replaces the build that was asked for.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.6"
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/sansref-*.whl)[${EXTRAS}]" && rm -r /wheels
# Whoever the container runs as can write here; threads that wait must not keep the cores of others busy.
ENV MPLCONFIGDIR=/tmp/matplotlib \
    OMP_WAIT_POLICY=passive \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
CMD ["sansref", "--help"]
