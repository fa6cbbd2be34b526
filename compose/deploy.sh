#!/bin/sh
# Brings this checkout's version, and a configuration, to a Docker host with systemd, over ssh.
#
#   compose/deploy.sh [--config DIR] [--wheel FILE] [--strict] [--check] [USER@]HOST
#
#   --config DIR   as `orchestrator init --folder DIR` writes it: config.yaml, aiagentchat.env, secrets/.
#                  Without it, what is on the host stays (the first time there must be one)
#   --wheel FILE   instead of one built from this checkout
#   --strict       with aiagentchat-strict.conf, for docker.disk_quota: measured
#   --check        look at both ends, change nothing
#
# Does again only what is different; with nothing different nothing is restarted. What it does on the
# host, how it judges and how it goes back: deploy-on-host.sh, which it brings along.
#
# Exit codes: 0 done; 1 the new version does not work, the former one does again; 2 the arguments, or
# this machine; 3 the host lacks something, nothing was changed; 4 it does not work, and neither does
# what was there before. SSH names another ssh, with its options.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
: "${SSH:=ssh}"
config='' wheel='' strict='' check='' host=''

say() { printf '%s\n' "$*"; }

fail() {
  printf 'deploy.sh: %s\n' "$*" >&2
  exit 2
}

usage() { sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" | sed '$d'; }

while [ $# -gt 0 ]; do
  case $1 in
    --config | --wheel)
      [ $# -ge 2 ] || fail "$1 needs a value"
      if [ "$1" = --config ]; then config=$2; else wheel=$2; fi
      shift
      ;;
    --strict) strict=yes ;;
    --check) check=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "unknown option: $1 (--help has them)" ;;
    *)
      [ -z "$host" ] || fail "one host at a time"
      host=$1
      ;;
  esac
  shift
done
[ -n "$host" ] || fail "which host? (--help has the arguments)"

# ── this machine ───────────────────────────────────────────────────────────────────────────────

check_config() {
  for name in config.yaml aiagentchat.env secrets; do
    [ -e "$config/$name" ] || fail "$config/$name is missing; orchestrator init --folder writes all of it"
  done
  for secret in "$config"/secrets/*; do
    [ -s "$secret" ] || fail "$secret is empty or no file"
  done
  # An editor's copy, or a key in the wrong place, is better found here than on the host.
  if grep -nE 'sk-ant-|syt_' "$config/config.yaml" "$config/aiagentchat.env" > /dev/null; then
    fail "a secret stands in config.yaml or aiagentchat.env: put it into a file below secrets/"
  fi
}

# The same sources give the same bytes, so that an unchanged version is known on the host.
build_wheel() {
  python=$top/.venv/bin/python
  if [ ! -x "$python" ]; then python=$(command -v python3) || fail "there is no python3 here"; fi
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-input --no-deps --no-index \
    --no-build-isolation --wheel-dir "$staged" "$top" > "$work/build.log" 2>&1 || {
    tail -n 5 "$work/build.log" >&2
    fail "the wheel could not be built: scripts/setup.sh run installs what that needs, or name --wheel"
  }
}

work=$(mktemp -d)
staged=$work/staged
mkdir -p "$staged"
# One connection for all that follows; %C keeps its path short.
ssh_options="-o BatchMode=yes -o ConnectTimeout=15 -o ControlMaster=auto -o ControlPath=$work/%C -o ControlPersist=60"
place=''

# shellcheck disable=SC2086 # SSH and ssh_options are words
on_host() { $SSH $ssh_options "$host" "$@"; }

# shellcheck disable=SC2317,SC2329 # called by the trap
clean_up() {
  code=$?
  trap - EXIT
  # It holds the secrets that were brought.
  if [ -n "$place" ]; then on_host "rm -rf '$place'" || say "left behind on $host: $place" >&2; fi
  # shellcheck disable=SC2086
  $SSH $ssh_options -O exit "$host" 2> /dev/null || :
  rm -rf "$work"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -n "$config" ]; then check_config; fi
if [ -n "$wheel" ]; then
  [ -s "$wheel" ] || fail "$wheel is no wheel"
  cp "$wheel" "$staged/"
else
  say "· building the wheel"
  build_wheel
fi
cp "$top/requirements.lock" "$here/deploy-on-host.sh" "$here/health.py" "$here/aiagentchat.service" \
  "$staged/"
if [ -n "$strict" ]; then cp "$here/aiagentchat-strict.conf" "$staged/"; fi
if [ -n "$config" ]; then
  mkdir -p "$staged/etc/secrets"
  cp "$config/config.yaml" "$staged/etc/"
  # The paths of the machine that it was written on.
  sed 's#=.*/secrets/#=/etc/aiagentchat/secrets/#' "$config/aiagentchat.env" \
    > "$staged/etc/aiagentchat.env"
  cp "$config"/secrets/* "$staged/etc/secrets/"
fi

# ── the host ───────────────────────────────────────────────────────────────────────────────────

say "· connecting to $host"
uid=$(on_host id -u) || fail "$host can't be reached by ssh without a question: keys, known_hosts, name?"
sudo=''
if [ "$uid" -ne 0 ]; then
  on_host sudo -n true || fail "on $host this user is not root and can't become it without a password"
  sudo='sudo -n '
fi
# shellcheck disable=SC2016 # the host expands it
place=$(tar -C "$staged" -cf - . | on_host \
  'umask 077 && d=$(mktemp -d /var/tmp/aiagentchat-deploy.XXXXXX) && tar --no-same-owner -xf - -C "$d" && echo "$d"')
case $place in
  /var/tmp/aiagentchat-deploy.*) ;;
  *) fail "$host did not say where it put the files: $place" ;;
esac
code=0
on_host "${sudo}sh '$place/deploy-on-host.sh' ${check:+--check} '$place'" || code=$?
exit "$code"
