# The CPU image: docker build -t nst-cache . && docker run --rm -v "$PWD:/work" nst-cache doctor
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends make python3-venv g++ \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN make wheel

FROM python:3.12-slim-bookworm
COPY --from=build /build/dist/*.whl /tmp/
RUN pip install --no-cache-dir /tmp/*.whl && rm /tmp/*.whl && nst-cache doctor
WORKDIR /work
ENTRYPOINT ["nst-cache"]
CMD ["--help"]
