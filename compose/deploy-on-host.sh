#!/bin/sh
# What deploy.sh does on the host, as root; it brings this file along.
#
#   deploy-on-host.sh [--check] DIR      DIR: what deploy.sh brought
#
#   /opt/aiagentchat/releases/VERSION-DIGEST   a virtual environment for each version; three are kept
#   /opt/aiagentchat/current                   the one that runs
#   /opt/aiagentchat/former/                   what to go back to: etc/, the unit, a copy of the database
#
# In this order: look; install beside what runs; try the new version and configuration out (doctor,
# the runner image); only then switch, restart, and wait until it is in step with the homeserver. When
# that fails: back, with the database as it was where the new version had changed its form.
#
# Exit codes as in deploy.sh. ROOT is put before every path, for tests.
set -eu
umask 022

ROOT=${ROOT:-}
base=$ROOT/opt/aiagentchat
etc=$ROOT/etc/aiagentchat
state=$ROOT/var/lib/aiagentchat
units=$ROOT/etc/systemd/system
unit=aiagentchat.service
former=$base/former
# Seconds. A start takes 3; a homeserver that is slow to answer gets the rest.
HEALTHY_WAIT=${HEALTHY_WAIT:-90}
KEEP=3
MIN_FREE_KIB=2097152

check=''
if [ "${1:-}" = --check ]; then
  check=yes
  shift
fi
place=${1:?usage: deploy-on-host.sh [--check] DIR}

# A connection that breaks off ends nothing half-way.
trap '' HUP PIPE
say() { printf '%s\n' "$*" || :; }

# ── looking ────────────────────────────────────────────────────────────────────────────────────

missing=''
need() {
  say "  missing: $*" >&2
  missing=yes
}

look() {
  [ "$(id -u)" -eq 0 ] || need "root"
  [ -d "$ROOT/run/systemd/system" ] || need "systemd, running"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
    || need "python3, 3.11 or later"
  python3 -c 'import ensurepip, venv' 2> /dev/null || need "python3-venv (apt-get install python3-venv)"
  for tool in flock sha256sum; do command -v "$tool" > /dev/null || need "$tool"; done
  [ -S "$ROOT/var/run/docker.sock" ] || need "a Docker Engine at /var/run/docker.sock"
  free=$(df -Pk "$(there "$base")" | awk 'NR == 2 {print $4}')
  [ "$free" -ge "$MIN_FREE_KIB" ] || need "2 GiB below /opt (there are $((free / 1024)) MiB)"
  [ -e "$etc/config.yaml" ] || [ -e "$place/etc/config.yaml" ] \
    || need "a configuration: --config DIR (nothing is at $etc yet)"
  if [ -n "$missing" ]; then
    say "nothing was changed" >&2
    exit 3
  fi
}

# The nearest directory that exists.
there() {
  path=$1
  while [ ! -d "$path" ]; do path=$(dirname "$path"); done
  printf '%s\n' "$path"
}

# ── installing ─────────────────────────────────────────────────────────────────────────────────

find_wheel() {
  wheel=''
  for file in "$place"/*.whl; do
    if [ -n "$wheel" ] || [ ! -s "$file" ]; then
      say "expected one wheel in $place" >&2
      exit 2
    fi
    wheel=$file
  done
  version=$(basename "$wheel" | cut -d- -f2)
  digest=$({
    sha256sum < "$wheel"
    sha256sum < "$place/requirements.lock"
    sha256sum < "$place/health.py"
    python3 -VV
  } | sha256sum | cut -c1-12)
  release=$base/releases/$version-$digest
}

install_release() {
  if [ -e "$release/.complete" ]; then
    say "· ${release##*/} is installed"
    return
  fi
  say "· installing ${release##*/} (about a minute)"
  # One that was cut short.
  rm -rf "$release"
  mkdir -p "$base/releases"
  {
    python3 -m venv "$release" \
      && "$release/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --progress-bar off --require-hashes --no-deps -r "$place/requirements.lock" \
      && "$release/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --no-index --no-deps "$wheel" \
      && cp "$place/health.py" "$release/health.py"
  } > "$base/install.log" 2>&1 || {
    tail -n 15 "$base/install.log" >&2
    rm -rf "$release"
    say "the packages could not be installed; nothing else was changed" >&2
    exit 3
  }
  touch "$release/.complete"
}

# ── what there was ─────────────────────────────────────────────────────────────────────────────

# Whether a file that was brought is different from the one in its place.
differs() { [ -e "$1" ] && ! cmp -s "$1" "$2"; }

# Sets `changes` to what is different, in words.
compare() {
  changes=''
  running=$(readlink "$base/current" 2> /dev/null || :)
  if [ "$running" != "$release" ]; then changes="$changes version"; fi
  if differs "$place/etc/config.yaml" "$etc/config.yaml" \
    || differs "$place/etc/aiagentchat.env" "$etc/aiagentchat.env"; then
    changes="$changes configuration"
  fi
  for file in "$place"/etc/secrets/*; do
    if differs "$file" "$etc/secrets/${file##*/}"; then changes="$changes ${file##*/}"; fi
  done
  if differs "$place/$unit" "$units/$unit" || strict_differs; then changes="$changes unit"; fi
}

strict_differs() {
  if [ -e "$place/aiagentchat-strict.conf" ]; then
    differs "$place/aiagentchat-strict.conf" "$units/$unit.d/strict.conf"
  else
    [ -e "$units/$unit.d/strict.conf" ]
  fi
}

private() {
  mkdir -p "$1"
  chmod 700 "$1"
}

remember() {
  rm -rf "$former"
  private "$former"
  printf '%s\n' "$running" > "$former/release"
  if [ -d "$etc" ]; then cp -a "$etc" "$former/etc"; fi
  if [ -e "$units/$unit" ]; then cp -a "$units/$unit" "$former/"; fi
  if [ -e "$units/$unit.d/strict.conf" ]; then cp -a "$units/$unit.d/strict.conf" "$former/"; fi
}

# ── switching ──────────────────────────────────────────────────────────────────────────────────

place_files() {
  mkdir -p "$units/$unit.d"
  for folder in "$etc" "$etc/secrets" "$state"; do private "$folder"; done
  if [ -d "$place/etc" ]; then
    for file in config.yaml aiagentchat.env; do put "$place/etc/$file" "$etc/$file" 600; done
    for file in "$place"/etc/secrets/*; do put "$file" "$etc/secrets/${file##*/}" 600; done
  fi
  put "$place/$unit" "$units/$unit" 644
  if [ -e "$place/aiagentchat-strict.conf" ]; then
    put "$place/aiagentchat-strict.conf" "$units/$unit.d/strict.conf" 644
  else
    rm -f "$units/$unit.d/strict.conf"
  fi
}

# put FROM TO MODE: whole or not at all.
put() {
  (
    umask 077
    cp "$1" "$2.new"
  )
  chmod "$3" "$2.new"
  mv "$2.new" "$2"
}

# with RELEASE COMMAND…: one of its commands with the unit's environment.
with() {
  program=$1/bin/$2
  shift 2
  (
    cd "$state"
    export AIAGENTCHAT_STATE_DIR="$state"
    set -a
    # shellcheck source=/dev/null
    if [ -e "$etc/aiagentchat.env" ]; then . "$etc/aiagentchat.env"; fi
    set +a
    exec "$program" "$@"
  )
}

link() {
  ln -s "$1" "$base/current.new"
  mv -T "$base/current.new" "$base/current"
}

restart() {
  systemctl reset-failed "$unit" 2> /dev/null || :
  systemctl daemon-reload && systemctl enable --quiet "$unit" && systemctl restart "$unit"
}

# Whether it is in step with the homeserver in time, has not been started anew meanwhile, and doctor
# finds nothing.
is_healthy() {
  left=$HEALTHY_WAIT
  until said=$("$1/bin/python" -I "$1/health.py" "$state"); do
    left=$((left - 1))
    if [ "$left" -le 0 ] || [ "$(starts)" -gt 1 ] || systemctl is-failed --quiet "$unit"; then
      say "  ${said:-no answer}" >&2
      return 1
    fi
    sleep 1
  done
  if [ "$(starts)" -gt 0 ]; then
    say "  it ended and was started anew" >&2
    return 1
  fi
  examine "$1"
}

# How often systemd had to start it anew.
starts() {
  count=$(systemctl show --property NRestarts --value "$unit")
  printf '%s\n' "${count:-0}"
}

examine() { with "$1" orchestrator doctor --config "$etc/config.yaml" > "$base/doctor.log" 2>&1 || {
  cat "$base/doctor.log" >&2
  return 1
}; }

# ── going back ─────────────────────────────────────────────────────────────────────────────────

go_back_files() {
  if [ -d "$former/etc" ]; then
    rm -rf "$etc"
    cp -a "$former/etc" "$etc"
  fi
  if [ -e "$former/$unit" ]; then cp -a "$former/$unit" "$units/$unit"; fi
  if [ -e "$former/strict.conf" ]; then
    cp -a "$former/strict.conf" "$units/$unit.d/strict.conf"
  else
    rm -f "$units/$unit.d/strict.conf"
  fi
}

go_back() {
  journalctl --unit "$unit" --lines 20 --no-pager --output cat 2> /dev/null >&2 || :
  go_back_files
  if [ -z "$running" ]; then
    systemctl disable --now --quiet "$unit" || :
    rm -f "$base/current"
    say "it does not work, and there is nothing to go back to: it was stopped" >&2
    exit 4
  fi
  say "· going back to ${running##*/}"
  systemctl stop "$unit" || :
  link "$running"
  give_database_back
  restart || :
  if is_healthy "$running"; then
    say "the new version does not work (above); ${running##*/} runs again" >&2
    exit 1
  fi
  say "neither the new version nor ${running##*/} works; journalctl -u $unit" >&2
  exit 4
}

# Earlier versions know no --database-only (exit code 2), and copy nothing else.
copy_database() {
  with "$running" orchestrator backup --database-only --state-dir "$state" --to "$1" || {
    [ $? -eq 2 ] || return 1
    with "$running" orchestrator backup --state-dir "$state" --to "$1"
  }
}

# A newer version may have changed the database's form; the copy from before it is of the old one.
give_database_back() {
  [ -e "$former/state.sqlite3" ] || return 0
  if with "$running" orchestrator doctor --config "$etc/config.yaml" --json 2> /dev/null | python3 -c '
import json, sys
checks = json.load(sys.stdin)["checks"]
sys.exit(not any(c["name"] == "database" and c["verdict"] == "fail" for c in checks))'; then
    say "· the database was changed by the new version: the copy from before it is used"
    with "$running" orchestrator restore "$former/state.sqlite3" --state-dir "$state" >&2 || :
  fi
}

# ── in order ───────────────────────────────────────────────────────────────────────────────────

look
find_wheel
if [ -n "$check" ]; then
  compare
  say "the host has all that is needed; different:${changes:- nothing}"
  exit 0
fi
mkdir -p "$base"
exec 9> "$base/lock"
flock -n 9 || {
  say "another deployment is under way on this host" >&2
  exit 3
}
install_release
compare
if [ -z "$changes" ] && systemctl is-active --quiet "$unit"; then
  say "· nothing is different: looking whether it works"
  is_healthy "$release" || exit 1
  say "${release##*/} works"
  exit 0
fi
say "· different:${changes:- nothing, but it does not run}"
remember
# Until the switch, whatever ends this puts the files back.
trap go_back_files EXIT
place_files
say "· trying it out beside what runs"
if ! with "$release" orchestrator config check "$etc/config.yaml" || ! examine "$release"; then
  say "the new version would not work here (above); what runs was left alone" >&2
  exit 3
fi
# Minutes where it is missing; so what runs goes on meanwhile.
with "$release" orchestrator image build || {
  say "the runner image can't be built; what runs was left alone" >&2
  exit 3
}
if [ -n "$running" ] && [ -e "$state/state.sqlite3" ]; then
  copy_database "$former/state.sqlite3"
fi
trap - EXIT
say "· switching"
link "$release"
restart || go_back
is_healthy "$release" || go_back
for name in orchestrator cchat; do
  ln -sfn /opt/aiagentchat/current/bin/$name "$ROOT/usr/local/bin/$name"
done
# The newest ones, and what runs.
find "$base/releases" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn \
  | tail -n +$((KEEP + 1)) | cut -d' ' -f2- | while read -r old; do
  [ "$old" = "$release" ] || [ "$old" = "$running" ] || rm -rf "$old"
done
say "${release##*/} works"
