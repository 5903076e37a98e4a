# vit_jax in a container, for ACCELERATOR cpu, cuda12, cuda13 or tpu (docs/accelerators.md):
#   docker build --build-arg ACCELERATOR=cuda13 --tag vit_jax .
#   docker run --rm --gpus all --volume vit_jax:/runs vit_jax --config=quickstart --workdir=/runs/quickstart
# Python 3.13, for which TensorFlow has wheels.
FROM python:3.13-slim-bookworm
ARG ACCELERATOR=cpu

# /runs belongs to the user, and so does a volume that is made from it.
RUN useradd --create-home --uid 1000 vit && install --directory --owner=vit --group=vit /app /runs
USER 1000
WORKDIR /app
COPY --chown=vit:vit . .
# Wheels that were downloaded once stay on the machine that builds, not in the image.
RUN --mount=type=cache,target=/tmp/wheels,uid=1000,gid=1000 \
    PIP_CACHE_DIR=/tmp/wheels VIT_JAX_ACCELERATOR="$ACCELERATOR" ./scripts/setup.sh

# Decoded data sets and compiled steps stay with the runs; huge pages as in scripts/train.sh.
ENV PATH=/app/.venv/bin:$PATH VIT_JAX_CACHE=/runs/cache GLIBC_TUNABLES=glibc.malloc.hugetlb=1
WORKDIR /runs
ENTRYPOINT ["vit-jax"]
CMD ["--help"]
