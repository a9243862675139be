# CPU:  docker build -t errata .
# CUDA: docker build -t errata --build-arg TORCH=cu126 .    then docker run --gpus all ... device=cuda
# docker run --rm -v "$PWD:/work" errata edit.py 'editors=[rome,ft_m]' data.limit=100
FROM python:3.12-slim
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
RUN pip install "torch>=2.6,<2.14" --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY . /opt/errata
RUN pip install "/opt/errata[peft]"
# whatever a run writes lies in the folder that is mounted here
WORKDIR /work
ENV PYTHONPATH=/opt/errata
ENTRYPOINT ["/bin/sh", "-c", "script=$1; shift; exec python /opt/errata/$script \"$@\"", "errata"]
CMD ["edit.py", "--help"]
