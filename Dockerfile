# On the processor:  docker build -t maskworks .
# On NVIDIA's cards: docker build -t maskworks --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg INDEX=https://download.pytorch.org/whl/cu128 .
# To use it:         docker run --rm -v "$PWD:/data" maskworks predict photographs --weights solov2.safetensors --out drawn
ARG BASE=ubuntu:24.04

FROM ${BASE} AS python
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/maskworks
ENV PATH=/opt/maskworks/bin:$PATH PIP_NO_CACHE_DIR=1

# The wheel is built of the same Python, as it holds a compiled part.
FROM python AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev
RUN pip install build
COPY . /source
RUN python -m build --wheel --outdir /wheels /source

FROM python
ARG INDEX=https://download.pytorch.org/whl/cpu
RUN pip install torch torchvision --index-url ${INDEX}
COPY --from=wheel /wheels /wheels
RUN pip install "$(echo /wheels/*.whl)[onnx]"
RUN useradd --create-home --uid 10001 maskworks
USER maskworks
WORKDIR /data
ENTRYPOINT ["maskworks"]
CMD ["--help"]
