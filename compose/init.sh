#!/bin/sh
# Makes the secrets of a profile where they are missing, each in the volume of the service that reads
# it: 0600, with that service's owner. Changes none that is there. Idempotent.
#
#   init.sh homeserver|observability
#
# MADE is where the volumes are; SERVER_NAME and PUBLIC_URL are the homeserver's, and fixed by the
# first start (a Matrix server keeps its name for good).
set -eu
umask 077
made=${MADE:-/made}
# The users of the images.
POSTGRES=999:999
SYNAPSE=991:991
GRAFANA=472:0

fail() {
  echo "init.sh: $*" >&2
  exit 1
}

# 32 random bytes, in characters that need no quoting anywhere.
random() { head -c 32 /dev/urandom | base64 | tr -d '=\n' | tr '+/' '-_'; }

# place OWNER FILE: standard input becomes the file, whole or not at all.
place() {
  cat > "$2.new"
  [ -s "$2.new" ] || fail "$2 would be empty"
  chown "$1" "$2.new"
  chmod 600 "$2.new"
  mv "$2.new" "$2"
}

# ensure OWNER FILE TEXT: TEXT is the file's, unless there is one.
ensure() { if [ ! -s "$2" ]; then printf '%s\n' "$3" | place "$1" "$2"; fi; }

# folder OWNER PATH: reached by that user and by root.
folder() {
  mkdir -p "$2"
  chown "$1" "$2"
  chmod 700 "$2"
}

homeserver() {
  case ${SERVER_NAME:?} in *[!A-Za-z0-9.:-]*) fail "SERVER_NAME is no host name: $SERVER_NAME" ;; esac
  case ${PUBLIC_URL:?} in
    *[!A-Za-z0-9.:/_-]*) fail "PUBLIC_URL is no address: $PUBLIC_URL" ;;
    http://* | https://*) ;;
    *) fail "PUBLIC_URL needs http:// or https://: $PUBLIC_URL" ;;
  esac
  postgres=$made/postgres synapse=$made/synapse
  folder "$POSTGRES" "$postgres"
  folder "$SYNAPSE" "$synapse"
  folder "$SYNAPSE" "$made/synapse-data"
  ensure "$POSTGRES" "$postgres/password" "$(random)"
  ensure "$SYNAPSE" "$synapse/pgpass" "postgres:5432:synapse:synapse:$(cat "$postgres/password")"
  ensure "$SYNAPSE" "$synapse/registration" "$(random)"
  ensure "$SYNAPSE" "$synapse/macaroon" "$(random)"
  ensure "$SYNAPSE" "$synapse/form" "$(random)"
  # The seed of an Ed25519 key, as Synapse writes it: unpadded base64.
  seed=$(head -c 32 /dev/urandom | base64 | tr -d '=\n')
  ensure "$SYNAPSE" "$synapse/signing.key" "ed25519 a_1 $seed"
  keep_name "$synapse/server.yaml"
  printf 'server_name: "%s"\npublic_baseurl: "%s/"\n' "$SERVER_NAME" "${PUBLIC_URL%/}" \
    | place "$SYNAPSE" "$synapse/server.yaml"
}

# Another name would make strangers of all accounts and rooms.
keep_name() {
  [ -s "$1" ] || return 0
  grep -qxF "server_name: \"$SERVER_NAME\"" "$1" \
    || fail "SERVER_NAME was $(sed -n 's/^server_name: //p' "$1") at the first start; set it back"
}

observability() {
  folder "$GRAFANA" "$made/grafana"
  ensure "$GRAFANA" "$made/grafana/admin" "$(random)"
}

case ${1:-} in
  homeserver | observability) "$1" ;;
  *) fail "usage: init.sh homeserver|observability" ;;
esac
