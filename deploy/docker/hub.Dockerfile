# The hub's image: server and common; nginx for the edge. Built from the wheelhouse alone, without a package index:
#   make wheelhouse && docker build -f deploy/docker/hub.Dockerfile -t fedglia-hub:0.1.0 .
ARG PYTHON=python:3.11.14-slim-bookworm

# Python's packages, every one of the version that constraints.txt names, from files.
FROM ${PYTHON} AS packages
COPY constraints.txt /build/
RUN python -m venv /opt/fedglia
RUN --mount=type=bind,source=wheelhouse,target=/build/wheelhouse \
    /opt/fedglia/bin/pip install --no-index --find-links /build/wheelhouse --constraint /build/constraints.txt \
      --no-cache-dir --no-compile fedglia==0.1.0
# The researcher's room has no business here. `client` stays: Flower looks for it, without running it, when a
# run is started.
RUN rm -r /opt/fedglia/lib/python3.11/site-packages/simulation

FROM ${PYTHON}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light=1.22.* tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/fedglia
COPY --from=packages /opt/fedglia /opt/fedglia
COPY deploy/health.py /opt/fedglia/health.py
ENV PATH=/opt/fedglia/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEDGLIA_HUB=/var/lib/fedglia/hub
USER 10001:10001
WORKDIR /var/lib/fedglia
VOLUME /var/lib/fedglia
EXPOSE 8443
ENTRYPOINT ["tini", "--", "fedglia"]
CMD ["hub", "start", "--foreground"]
