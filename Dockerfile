# One image for all of the lab's own processes: the command of a container says which it is (docker-compose.yml).
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY requirements/bootstrap.txt requirements/runtime.txt deploy/native-only.txt ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
      --require-hashes -r bootstrap.txt \
 && python -m venv --without-pip /opt/lab \
 && uv pip install --no-cache --python /opt/lab/bin/python --compile-bytecode --no-build \
      --require-hashes --excludes native-only.txt -r runtime.txt
COPY services /app/services
COPY dashboards /app/dashboards
COPY loadtest /app/loadtest
COPY lab /app/lab
# The command line, for `docker compose exec lab lab ...`: the image has no build tool to make what pip would.
RUN python -m compileall -q /app \
 && printf '#!/opt/lab/bin/python\nfrom lab.main import run\nrun()\n' > /opt/lab/bin/lab \
 && chmod 0755 /opt/lab/bin/lab

FROM ${PYTHON_IMAGE}
# A folder hands its owner on to the volume that is first mounted there: secrets are drawn into /run/lab.
RUN groupadd --gid 10001 lab \
 && useradd --uid 10001 --gid lab --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lab \
 && install -d -o lab -g lab -m 0755 /run/lab /lab /lab/logs
COPY --from=build /opt/lab /opt/lab
COPY --from=build /app /app
ENV PATH=/opt/lab/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
