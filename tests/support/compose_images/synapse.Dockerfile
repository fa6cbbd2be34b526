# In place of the image of compose.yaml: the tests' Synapse, with what speaks with PostgreSQL.
ARG SYNAPSE
FROM ${SYNAPSE}
USER 0:0
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-psycopg2 \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s /usr/lib/python3/dist-packages/psycopg2 /opt/synapse/lib/python3.11/site-packages/
ENV PATH=/opt/synapse/bin:/usr/bin:/bin
USER 991:991
