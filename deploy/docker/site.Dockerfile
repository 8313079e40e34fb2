# A site's image: client and common, for the node and the worker. Built from the wheelhouse alone:
#   make wheelhouse && docker build -f deploy/docker/site.Dockerfile -t fedglia-site:0.1.0 .
# Whether it can use a GPU is settled by the PyTorch wheel in the wheelhouse; no other part differs.
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS packages
COPY constraints.txt /build/
RUN python -m venv /opt/fedglia
RUN --mount=type=bind,source=wheelhouse,target=/build/wheelhouse \
    /opt/fedglia/bin/pip install --no-index --find-links /build/wheelhouse --constraint /build/constraints.txt \
      --no-cache-dir --no-compile fedglia==0.1.0
# A hospital's machine holds no hub and no simulation; `fedglia --help` then lists neither.
RUN rm -r /opt/fedglia/lib/python3.11/site-packages/server /opt/fedglia/lib/python3.11/site-packages/simulation

FROM ${PYTHON}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/fedglia \
    && install -d -m 0755 /srv/fedglia/scans
COPY --from=packages /opt/fedglia /opt/fedglia
COPY deploy/health.py /opt/fedglia/health.py
ENV PATH=/opt/fedglia/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEDGLIA_SITE=/var/lib/fedglia/site
USER 10001:10001
WORKDIR /var/lib/fedglia
VOLUME /var/lib/fedglia
ENTRYPOINT ["tini", "--", "fedglia"]
CMD ["site", "start", "--foreground"]
