# The service. Configuration at /etc/cdc/config.yaml, or by environment alone (CDC__SOURCE__URL, ...):
#
#   docker run -v ./config.yaml:/etc/cdc/config.yaml:ro -p 127.0.0.1:8089:8089 cdc            # cdc run
#   docker run -v ./config.yaml:/etc/cdc/config.yaml:ro cdc check                             # any other command
#
# Debian's own Python, so that security updates of it come with `apt-get upgrade` of the base.

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3 python3-dev python3-venv
WORKDIR /src
# The build back end and the compiler of the kernel, pinned and with hashes like the rest; they stay in this stage.
COPY requirements.lock requirements-dev.lock ./
RUN sed -n -E '/^(cython|setuptools)==/,/[^\\]$/p' requirements-dev.lock >build.lock \
 && python3 -m venv /tools \
 && /tools/bin/pip install --quiet --no-cache-dir --require-hashes -r build.lock \
 && python3 -m venv --without-pip /opt/cdc \
 && /tools/bin/pip --python /opt/cdc/bin/python install --quiet --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml setup.py LICENSE ./
COPY checkpoints checkpoints
COPY snapshot snapshot
COPY cdc cdc
RUN /tools/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /tools/bin/pip --python /opt/cdc/bin/python install --quiet --no-index --no-deps /wheels/*.whl

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 tzdata \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10001 cdc \
 && useradd --uid 10001 --gid cdc --home-dir /var/lib/cdc --create-home --shell /usr/sbin/nologin cdc \
 && mkdir /etc/cdc
COPY --from=build /opt/cdc /opt/cdc
# Environment wins over config.yaml: in a container the service listens on the container's own network, and keeps
# its files (only bytes that were not understood) where a volume can be.
ENV PATH=/opt/cdc/bin:$PATH \
    CDC__HTTP__HOST=0.0.0.0 \
    CDC__HTTP__PORT=8089 \
    CDC__VAR_DIR=/var/lib/cdc
LABEL org.opencontainers.image.title="cdc" \
      org.opencontainers.image.description="Change data capture from MySQL and MariaDB, exactly once" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
# `cdc` takes config.yaml from the working directory.
WORKDIR /etc/cdc
EXPOSE 8089
# Alive, not well: a source that is away is no reason to restart the service. /health and /readyz say how it is.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python3", "-I", "-c", "\
import http.client, os, sys\n\
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['CDC__HTTP__PORT']), timeout=4)\n\
connection.request('GET', '/healthz')\n\
sys.exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["cdc"]
CMD ["run"]
