# One stage for each service; the last one is the whole environment: `docker build -t ml_env .`
#
# Each image holds its own locked packages in /opt/aisle, on the same base, and nothing that built them. A change of the
# code builds the small layers anew, a change of a lock the large ones. Every image runs as 10001, with a root that may be
# read-only: what it writes goes to /app/data, /app/models, /app/logs and /tmp.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG DOCKER_IMAGE=docker:28.5.2-cli

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PATH=/opt/aisle/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib KERAS_HOME=/app/data/keras \
    SERVE_HOST=0.0.0.0 AUTH_HOST=0.0.0.0
RUN install -d -o 10001 -g 10001 /app /app/data /app/data/batches /app/models /app/logs
WORKDIR /app

# What builds: uv, which installs in parallel, and what makes a wheel of the code.
FROM base AS tools
RUN --mount=type=bind,source=requirements/image.txt,target=/lock.txt \
    python3 -m venv /build && /build/bin/pip install --no-cache-dir --require-hashes -r /lock.txt
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 \
    INSTALL="/build/bin/uv pip install --require-hashes --python /opt/aisle -r /lock.txt"

FROM tools AS wheel
COPY LICENSE README.md pyproject.toml /src/
COPY src /src/src
RUN /build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheel /src

FROM tools AS venv
RUN python3 -m venv --without-pip /opt/aisle

# The locks of data, predict, train and the whole hold one another, as those of auth and serve do: what one has installed
# and compiled, the next one need not.
FROM venv AS data-packages
RUN --mount=type=bind,source=requirements/data.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv $INSTALL
FROM data-packages AS predict-packages
RUN --mount=type=bind,source=requirements/predict.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv $INSTALL
FROM predict-packages AS train-packages
RUN --mount=type=bind,source=requirements/train.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv $INSTALL
FROM train-packages AS whole-packages
RUN --mount=type=bind,source=requirements/keras.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv $INSTALL
FROM venv AS auth-packages
RUN --mount=type=bind,source=requirements/auth.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv $INSTALL
# The libraries' own tests are an eighth of what a service would carry about.
FROM auth-packages AS serve-packages
RUN --mount=type=bind,source=requirements/serve.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv $INSTALL \
    && find /opt/aisle -type d -name tests -prune -exec rm -r {} +
FROM tools AS airflow-packages
RUN --mount=type=bind,source=requirements/airflow.txt,target=/lock.txt --mount=type=cache,target=/var/cache/uv \
    python3 -m venv --without-pip /opt/airflow \
    && /build/bin/uv pip install --require-hashes --python /opt/airflow -r /lock.txt

# import, validate, prepare
FROM base AS data
COPY --from=data-packages /opt/aisle /opt/aisle
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip3 --python /opt/aisle/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
USER 10001:10001
VOLUME ["/app/data", "/app/models", "/app/logs"]
HEALTHCHECK NONE
ENTRYPOINT ["aisle"]
CMD ["--help"]
ARG REVISION=
ENV AISLE_REVISION=$REVISION
LABEL org.opencontainers.image.title="aisle data" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION

# train, both recipes
FROM base AS train
COPY --from=train-packages /opt/aisle /opt/aisle
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip3 --python /opt/aisle/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
USER 10001:10001
VOLUME ["/app/data", "/app/models", "/app/logs"]
HEALTHCHECK NONE
ENTRYPOINT ["aisle"]
CMD ["train", "--help"]
ARG REVISION=
ENV AISLE_REVISION=$REVISION
LABEL org.opencontainers.image.title="aisle train" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION

# evaluate, predict, the gate, and the worker
FROM base AS predict
COPY --from=predict-packages /opt/aisle /opt/aisle
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip3 --python /opt/aisle/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
USER 10001:10001
VOLUME ["/app/data", "/app/models", "/app/logs"]
HEALTHCHECK NONE
ENTRYPOINT ["aisle"]
CMD ["predict", "--help"]
ARG REVISION=
ENV AISLE_REVISION=$REVISION
LABEL org.opencontainers.image.title="aisle predict" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION

# the prediction service
FROM base AS serve
COPY --from=serve-packages /opt/aisle /opt/aisle
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip3 --python /opt/aisle/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
USER 10001:10001
VOLUME ["/app/data", "/app/models", "/app/logs"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD \
    ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', 8000)}/readyz\", timeout=4)"]
ENTRYPOINT ["aisle"]
CMD ["serve"]
ARG REVISION=
ENV AISLE_REVISION=$REVISION
LABEL org.opencontainers.image.title="aisle serve" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION

# the token service
FROM base AS auth
COPY --from=auth-packages /opt/aisle /opt/aisle
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip3 --python /opt/aisle/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
USER 10001:10001
VOLUME ["/app/data", "/app/logs"]
EXPOSE 8011
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD \
    ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('AUTH_PORT', 8011)}/readyz\", timeout=4)"]
ENTRYPOINT ["aisle"]
CMD ["auth"]
ARG REVISION=
ENV AISLE_REVISION=$REVISION
LABEL org.opencontainers.image.title="aisle auth" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION

FROM ${DOCKER_IMAGE} AS docker-cli

# Airflow, which calls the other images; git and DVC for the versions, Docker's client for the tasks that build and start
FROM base AS airflow
# Airflow refuses a user without a name; git refuses a repository of somebody else, which a mounted one may be. It is that of
# Debian's stable release, with its security fixes.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 aisle && useradd --uid 10001 --gid aisle --home-dir /tmp --no-create-home aisle \
    && git config --system --add safe.directory '*' \
    && install -d -o 10001 -g 10001 /app/airflow
COPY --from=docker-cli /usr/local/bin/docker /usr/local/bin/docker
COPY --from=docker-cli /usr/local/libexec/docker/cli-plugins /usr/local/libexec/docker/cli-plugins
COPY --from=airflow-packages /opt/airflow /opt/airflow
COPY deploy/airflow /opt/airflow/deploy
ENV PATH=/opt/aisle/bin:/opt/airflow/bin:$PATH AIRFLOW_HOME=/app/airflow AIRFLOW__CORE__LOAD_EXAMPLES=false \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/deploy/dags
USER 10001:10001
VOLUME ["/app/airflow"]
EXPOSE 8080
HEALTHCHECK NONE
ENTRYPOINT ["airflow"]
CMD ["standalone"]
ARG REVISION=
ENV AISLE_REVISION=$REVISION
LABEL org.opencontainers.image.title="aisle airflow" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$REVISION

# The whole environment: every verb, both recipes, DVC, and Airflow beside it
FROM airflow AS environment
USER 0:0
COPY --from=whole-packages /opt/aisle /opt/aisle
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip3 --python /opt/aisle/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
USER 10001:10001
VOLUME ["/app/data", "/app/models", "/app/logs"]
EXPOSE 8000 8011
ENTRYPOINT ["aisle"]
CMD ["run"]
LABEL org.opencontainers.image.title="aisle environment"
