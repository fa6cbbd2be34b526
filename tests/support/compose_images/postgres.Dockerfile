# In place of the image of compose.yaml: Debian's PostgreSQL, made at its first start by the same
# variables, for the same user.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN useradd --uid 999 --user-group --no-create-home postgres \
 && apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql-15 \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* \
 && install -d -o 999 -g 999 -m 0700 /var/lib/postgresql/data
COPY postgres.sh /entry.sh
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin
ENTRYPOINT ["sh", "/entry.sh"]
