#!/bin/sh
# Set up what `make up`, `make test` and `make check` need, then run them. See `make help`.
#
#   setup.sh up [ARGUMENTS…]     environment, engine; then `orchestrator up ARGUMENTS`
#   setup.sh test [ARGUMENTS…]   environment, engine, runner image; then all tests
#   setup.sh unit [ARGUMENTS…]   environment; then the tests that need nothing else
#   setup.sh chaos [ARGUMENTS…]  the same as for test; then the long tests, and kills ARGUMENTS…
#   setup.sh fuzz [ARGUMENTS…]   environment, atheris; then fuzzing, guided by coverage
#   setup.sh integration, security   the same as for test; then a part of its tests on real parts
#   setup.sh check               environment; then format, lint, types, imports, shell
#   setup.sh lint, types         a part of check
#   setup.sh newest              the same as for test; then what breaks with the newest of everything
#   setup.sh image [ARGUMENTS…]  environment, engine; then `orchestrator image build ARGUMENTS`
#   setup.sh reproduce           environment, engine; then the runner image twice, compared
#   setup.sh pictures            the same as for test; then the pictures of docs/pictures anew
#   setup.sh run|dev|engine      only that part of the set-up
#
# Every part is done once and found done later. Only as root are Debian packages installed, and on
# a terminal a Docker Engine only after asking. PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
VENV=.venv
LOGS=.cache/setup
# Seconds. An engine answers about 1 s after its start; the rest is for a busy machine.
ENGINE_WAIT=60
TAIL_LINES=15
# The markers of pyproject.toml: each test runs in one of the two parts of `make test`, but for those
# that take minutes each, which `make chaos` runs.
REAL_PARTS='docker or synapse or cli or faults or host or pipeline'
DOCKERD_LOG=/var/log/aiagentchat-dockerd.log
# pytest-xdist: tests mostly wait, those that need only Python for the disk, others for containers. On
# real parts a file's tests stay together, so that they share their set-up.
UNIT_WORKERS=$(($(nproc) * 2))
REAL_WORKERS=3
TOOLS=$PWD/.cache/tools
dockerd=''

say() { printf '%s\n' "$*"; }

fail() {
  printf '\n%s\n' "$*" >&2
  exit 1
}

# step NAME TEXT COMMAND…: run it in a process group of its own with its output in a log; show how
# long it takes. A failure shows the end of the log and returns 1. Ctrl-C ends the whole group.
step() {
  name=$1 text=$2
  shift 2
  mkdir -p "$LOGS"
  log=$LOGS/$name.log
  began=$(date +%s)
  say "· $text …"
  setsid "$@" > "$log" 2>&1 < /dev/null &
  child=$!
  trap 'kill -s TERM -- "-$child" 2> /dev/null; exit 130' INT
  trap 'kill -s TERM -- "-$child" 2> /dev/null; exit 143' TERM
  status=0
  watch_step &
  watcher=$!
  wait "$child" || status=$?
  trap - INT TERM
  kill "$watcher" 2> /dev/null || :
  wait "$watcher" 2> /dev/null || :
  took=$(($(date +%s) - began))
  if [ "$status" -eq 0 ]; then
    say "  done ($took s)"
    return 0
  fi
  say "  failed after $took s. The end of $log:" >&2
  tail -n "$TAIL_LINES" "$log" | sed 's/^/  | /' >&2
  return 1
}

# A sign of life every 15 s while a step runs; ends with the step.
watch_step() {
  seconds=0
  while kill -0 "$child" 2> /dev/null; do
    sleep 1
    seconds=$((seconds + 1))
    if [ $((seconds % 15)) -eq 0 ]; then say "  … $seconds s"; fi
  done
}

is_root() { [ "$(id -u)" -eq 0 ]; }

has() { command -v "$1" > /dev/null 2>&1; }

apt_install() {
  # A list of packages as old as the image finds nothing, so it is refreshed first.
  step "apt-$1" "installing $* from Debian's packages" \
    sh -c 'apt-get update -q && exec apt-get install -qy --no-install-recommends "$@"' sh "$@"
}

# ── the virtual environment ────────────────────────────────────────────────────────────────────

require_python() {
  has "$PYTHON" || fail "aiagentchat needs Python 3.11 or later, and there is no $PYTHON here.
Install it (on Debian: apt-get install python3 python3-venv), then try again."
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
    "aiagentchat needs Python 3.11 or later; $PYTHON is $("$PYTHON" -V 2>&1 | cut -d' ' -f2).
Install a newer one, then name it, for instance: make up PYTHON=/usr/local/bin/python3.12"
}

require_venv_module() {
  if "$PYTHON" -c 'import ensurepip, venv' 2> /dev/null; then return; fi
  if is_root && has apt-get; then
    apt_install python3-venv || fail "Install the package python3-venv by hand, then try again."
  fi
  "$PYTHON" -c 'import ensurepip, venv' 2> /dev/null || fail \
    "$PYTHON can't make virtual environments here. Type: sudo apt-get install python3-venv"
}

# What the installed packages depend on; changes with a lock, the project file, the interpreter.
fingerprint() {
  {
    cat "$1" pyproject.toml
    "$VENV/bin/python" -VV
    pwd
  } | sha256sum | cut -d' ' -f1
}

# ensure_venv run|dev: the virtual environment with the packages of that lock, checked by digest.
ensure_venv() {
  case $1 in
    run) lock=requirements.lock ;;
    dev) lock=requirements-dev.lock ;;
  esac
  stamp=$VENV/.aiagentchat-$1
  if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2> /dev/null; then
    if [ "$(cat "$stamp" 2> /dev/null)" = "$(fingerprint "$lock")" ]; then return; fi
  else
    require_python
    require_venv_module
    step venv "making the virtual environment $VENV" "$PYTHON" -m venv --clear "$VENV" \
      || fail "The virtual environment could not be made; the lines above say why."
  fi
  rm -f "$stamp"
  install_packages "$lock"
  fingerprint "$lock" > "$stamp"
  if [ "$1" = dev ]; then fingerprint requirements.lock > "$VENV/.aiagentchat-run"; fi
}

# The lock names every package, so nothing is resolved: a resolver may prefer a release that came out
# after the lock was written, which has no digest there, and refuse to go on.
install_packages() {
  step pip "installing the packages of $1 (about a minute)" \
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
    --require-hashes --no-deps -r "$1" \
    || fail "Check that a Python package index can be reached, then try again. pip has its own
settings for another index or a proxy: pip help config"
  step project "installing aiagentchat itself" \
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
    --no-index --no-deps --no-build-isolation -e . \
    || fail "aiagentchat could not be installed into $VENV; the lines above say why."
}

# ── the Docker Engine ──────────────────────────────────────────────────────────────────────────

engine_answers() {
  "$VENV/bin/python" -c '
import docker
client = docker.from_env(timeout=5)
client.ping()' 2> /dev/null
}

ensure_engine() {
  if engine_answers; then return; fi
  [ -z "${DOCKER_HOST:-}" ] || fail "DOCKER_HOST is $DOCKER_HOST, and no Docker Engine answers there.
Start that engine, or unset DOCKER_HOST to use the one of this machine."
  is_root || fail "No Docker Engine answers, and only root can start one. Type: sudo make up"
  if ! has dockerd; then install_engine; fi
  if ! engine_answers; then start_engine; fi
}

require_root() {
  is_root || fail "aiagentchat must run as root: each room's files get an owner of their own. Type:
  sudo make $1"
}

install_engine() {
  has apt-get || fail "No Docker Engine answers, and this is no Debian to install one on.
Install one (https://docs.docker.com/engine/install/), start it, then try again."
  if [ -t 0 ]; then
    printf 'No Docker Engine answers. Install docker.io from Debian'"'"'s packages? [Y/n] '
    read -r answer || answer=n
    case $answer in
      '' | [Yy]*) ;;
      *) fail "Nothing was installed. aiagentchat needs a Docker Engine; start one, then try again." ;;
    esac
  fi
  apt_install docker.io iptables ca-certificates debootstrap \
    || fail "docker.io could not be installed; the lines above say why."
  has dockerd || fail "docker.io is installed, but there is no dockerd in PATH ($PATH)."
}

start_engine() {
  say "· starting the Docker Engine …"
  if [ -d /run/systemd/system ]; then
    systemctl start docker || fail "The Docker Engine did not start. Type: journalctl -u docker"
  else
    # In a container the init script may fail or do nothing; then dockerd is started without it.
    if [ -x /etc/init.d/docker ] && service docker start > /dev/null 2>&1 < /dev/null; then
      wait_for_engine 15 || start_dockerd
    else
      start_dockerd
    fi
  fi
  wait_for_engine "$ENGINE_WAIT" || fail_engine
  say "  done; it goes on running when aiagentchat ends"
}

start_dockerd() {
  # The pid file of an engine that was killed names no engine any more; dockerd would refuse to start.
  pid=$(cat /var/run/docker.pid 2> /dev/null || :)
  if [ -n "$pid" ] && ! grep -qs dockerd "/proc/$pid/cmdline"; then rm -f /var/run/docker.pid; fi
  setsid dockerd > "$DOCKERD_LOG" 2>&1 < /dev/null &
  dockerd=$!
  say "  as a process of its own; its log is $DOCKERD_LOG"
}

# Seconds, at most; not any longer than the dockerd that was started here lives.
wait_for_engine() {
  left=$1
  until engine_answers; do
    left=$((left - 1))
    if [ "$left" -le 0 ]; then return 1; fi
    if [ -n "$dockerd" ] && ! kill -0 "$dockerd" 2> /dev/null; then return 1; fi
    sleep 1
  done
}

fail_engine() {
  if [ -f "$DOCKERD_LOG" ]; then tail -n "$TAIL_LINES" "$DOCKERD_LOG" | sed 's/^/  | /' >&2; fi
  fail "The Docker Engine does not answer. In a container it needs --privileged; otherwise start it by
hand (dockerd), read what it says, then try again."
}

# ── the runner image ───────────────────────────────────────────────────────────────────────────

# The image is built when it is missing. Its base is pulled, or made with debootstrap: as root that
# is installed when it turns out to be needed.
ensure_image() {
  if "$VENV/bin/orchestrator" image build "$@"; then return; fi
  if has debootstrap || ! is_root || ! has apt-get; then
    fail "The runner image could not be built; the lines above say why."
  fi
  apt_install debootstrap || fail "Install the package debootstrap by hand, then try again."
  "$VENV/bin/orchestrator" image build "$@" \
    || fail "The runner image could not be built; the lines above say why."
}

# ── what makes a host fail ─────────────────────────────────────────────────────────────────────

# libfiu lets a system call fail, faketime sets a process's clock, runsc is gVisor. Tests that need
# one of them and don't find it are skipped, and say so.
ensure_fault_tools() {
  if has fiu-run && has faketime && has runsc; then return; fi
  has apt-get || return 0
  apt_install libfiu0 fiu-utils faketime runsc || say "  some tests will be skipped for it"
}

# groff and man show that the manual pages are in order. A Debian has them; its images don't.
# What looks at compose/ and scripts: from Debian's packages, unpacked and not installed, since Prometheus
# would be started as a service.
ensure_tools() {
  PATH="$PATH:$TOOLS/usr/bin"
  export PATH
  if has promtool && has amtool && has shellcheck; then return; fi
  has apt-get || return 0
  # shellcheck disable=SC2016 # its own shell's variables
  step tools "unpacking promtool, amtool and shellcheck from Debian's packages" sh -ec '
    mkdir -p "$1/packages"
    cd "$1/packages"
    apt-get update -q
    apt-get download -q prometheus prometheus-alertmanager shellcheck
    for package in *.deb; do dpkg-deb --extract "$package" "$1"; done
  ' sh "$TOOLS" || say "  some tests will be skipped for it"
}

ensure_man() {
  if has groff && has man; then return; fi
  if is_root && has apt-get && apt_install groff-base man-db; then return; fi
  fail "The tests of the manual pages need groff and man. Install them (on Debian:
apt-get install groff-base man-db), then try again."
}

# ── another client, and a browser ──────────────────────────────────────────────────────────────

# matrix-js-sdk as a second client, and Chromium to see a room as a person does. Node.js comes with the
# locked packages. Without Chromium the tests that take pictures are skipped, and say so.
ensure_web() {
  ensure_npm tests/web
  if has chromium || has chromium-browser || ! is_root || ! has apt-get; then return 0; fi
  apt_install chromium fonts-dejavu-core fonts-noto-color-emoji \
    || say "  some tests will be skipped for it"
}

# ensure_npm FOLDER: the packages of its lock file, checked by digest.
ensure_npm() {
  want=$(cat "$1/package-lock.json" "$VENV/.aiagentchat-dev" | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$1/node_modules/.aiagentchat" 2> /dev/null)" = "$want" ]; then return 0; fi
  step npm "installing the packages of $1/package-lock.json" \
    env PATH="$PWD/$VENV/bin:$PATH" "$VENV/bin/npm" ci --prefix "$1" \
    --ignore-scripts --no-audit --no-fund --no-progress \
    || fail "Check that an npm registry can be reached, then try again. npm has its own settings for
another registry or a proxy: $VENV/bin/npm help config"
  printf '%s\n' "$want" > "$1/node_modules/.aiagentchat"
}

# ── what is run ────────────────────────────────────────────────────────────────────────────────

up() {
  require_root up
  ensure_venv run
  ensure_engine
  # With debootstrap, or without the right to install it, `orchestrator up` needs no help.
  if ! has debootstrap && is_root && has apt-get; then ensure_image; fi
  exec "$VENV/bin/orchestrator" up "$@"
}

# A wheel with the runner image's sources in it, installed and asked for its version somewhere else.
package() {
  rm -rf dist
  "$VENV/bin/python" -m pip wheel --quiet --no-deps --wheel-dir dist .
  trial=$(mktemp -d)
  "$PYTHON" -m venv "$trial"
  "$trial/bin/pip" install --quiet --require-hashes --requirement requirements.lock
  "$trial/bin/pip" install --quiet --no-deps dist/*.whl
  (cd "$trial" && "$trial/bin/orchestrator" --version && "$trial/bin/cchat" --help > /dev/null)
  for page in orchestrator cchat; do
    cmp "docs/man/$page.1" "$trial/share/man/man1/$page.1" \
      || fail "The wheel lacks $page's manual page: see shared-data in pyproject.toml."
  done
  rm -rf "$trial"
  (cd dist && sha256sum -- *.whl | tee SHA256SUMS)
}

# check PART…: what is looked at without running it.
check() {
  ensure_venv dev
  failed=''
  for part in "$@"; do "$part"; done
  [ -z "$failed" ] || fail "make check failed:$failed"
  say "make check: everything passed"
}

lint() {
  run_check "$VENV/bin/ruff" format --check .
  run_check "$VENV/bin/ruff" check .
  run_check "$VENV/bin/lint-imports"
  if has shellcheck; then
    run_check shellcheck scripts/*.sh runner-image/*.sh compose/*.sh .ci/run .ci/prepare
  else
    say "· shellcheck is not installed; the shell scripts are not checked"
  fi
}

types() { run_check "$VENV/bin/mypy"; }

run_check() {
  say "· ${1##*/} ${2:-}"
  "$@" || failed="$failed ${1##*/}"
}

# The tests that need nothing but programs to look at files with.
unit_tests() {
  ensure_venv dev
  ensure_tools
  mkdir -p "$LOGS"
  say "· tests that need nothing but Python"
  run_pytest "$LOGS/unit.log" tests -m "not ($REAL_PARTS or long)" \
    --numprocesses "$UNIT_WORKERS" --dist worksteal "$@"
}

# The same with the coverage of what they can reach, as one number; it takes half as long again.
unit() {
  status=0
  export COVERAGE_FILE="$LOGS/coverage"
  unit_tests --cov --cov-config=scripts/coverage.ini --cov-report= "$@" || status=$?
  covered=$("$VENV/bin/coverage" report --rcfile=scripts/coverage.ini --format=total 2>&1) || :
  say "branch coverage of what runs without Docker: $covered %"
  return "$status"
}

# Everything but the long forms (marked `long`, and bench), which have targets of their own.
all_tests() {
  require_root test
  tests_began=$(date +%s)
  failed=0
  unit_tests "$@" || failed=1
  ensure_real_parts
  say "· tests on real parts: Docker Engine, Synapse, the Claude Code CLI"
  run_real real tests -m "($REAL_PARTS) and not long" "$@" || failed=1
  say ""
  say "make test, $(($(date +%s) - tests_began)) s:"
  say "  without Docker  $(closing_line "$LOGS/unit.log")"
  say "  on real parts   $(closing_line "$LOGS/real.log")"
  sed -n 's/^unsteady: /  unsteady        /p' "$LOGS/real-again.log"
  return "$failed"
}

# run_real NAME PYTEST-ARGUMENTS…: what failed beside others is tried again alone (scripts/again.py).
run_real() {
  log=$LOGS/$1.log again=$LOGS/$1-again.log code=0
  shift
  : > "$again"
  run_pytest "$log" "$@" --cache-clear --numprocesses "$REAL_WORKERS" --dist loadfile || code=$?
  [ "$code" -eq 1 ] || return "$code"
  code=0
  "$VENV/bin/python" -m scripts.again > "$again" 2>&1 < /dev/null || code=$?
  cat "$again"
  return "$code"
}

# real NAME PYTEST-ARGUMENTS…: a part of the tests, with all that any of them needs.
real() {
  name=$1
  shift
  require_root "$name"
  ensure_venv dev
  ensure_real_parts
  run_real "$name" "$@"
}

# What tests on real parts need. Here and not in the tests, whose time is limited.
ensure_real_parts() {
  ensure_engine
  ensure_image
  ensure_fault_tools
  ensure_man
  ensure_web
  ensure_npm tests/pipeline
  step scan "installing the packages of requirements-ci.lock" scripts/scan.sh tools \
    || fail "Check that a Python package index can be reached, then try again."
  if ! has rsync && has apt-get; then apt_install rsync || say "  some tests will be skipped for it"; fi
  step synapse "making the image of the tests' Synapse, unless it is there (about a minute)" \
    "$VENV/bin/python" -m tests.support.synapse_image \
    || fail "The image could not be built; the lines above say why."
}

# The long forms, one after the other, and then kills at random moments: the last line says what
# became of the messages.
chaos() {
  require_root chaos
  ensure_venv dev
  ensure_real_parts
  failed=0
  say "· tests that take minutes each"
  run_pytest "$LOGS/long.log" tests -m long || failed=1
  say "· kills at random moments, under load"
  "$VENV/bin/python" -m tests.chaos.kills "$@" || failed=1
  return "$failed"
}

# One target after the other, a minute each, or the one that ARGUMENTS name.
fuzz() {
  ensure_venv dev
  "$VENV/bin/python" -c 'import atheris' 2> /dev/null || install_fuzzer
  if [ $# -gt 0 ]; then exec "$VENV/bin/python" -m tests.fuzz "$@"; fi
  failed=0
  for target in $("$VENV/bin/python" -m tests.fuzz.targets); do
    say "· fuzzing: $target"
    "$VENV/bin/python" -m tests.fuzz "$target" > "$LOGS/fuzz-$target.log" 2>&1 || failed=1
    tail -n 1 "$LOGS/fuzz-$target.log"
  done
  return "$failed"
}

install_fuzzer() {
  step fuzzer "installing the fuzzer" \
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
    --require-hashes --no-deps -r requirements-fuzz.lock \
    || fail "The fuzzer could not be installed: it is there for Linux on x86-64 and CPython only."
}

# run_pytest LOG ARGUMENTS…: its output is shown and kept. The status is pytest's own, except that
# a selection (-k) which leaves nothing to run is no failure.
run_pytest() {
  log=$1
  shift
  rm -f "$log.status"
  {
    code=0
    "$VENV/bin/python" -m pytest "$@" < /dev/null 2>&1 || code=$?
    echo "$code" > "$log.status"
  } | tee "$log"
  code=$(cat "$log.status")
  if [ "$code" -eq 5 ]; then code=0; fi
  return "$code"
}

closing_line() { tail -n 1 "$1" | tr -d '=' | sed 's/^ *//; s/ *$//'; }

command=${1:-}
[ -n "$command" ] || fail "usage: setup.sh up|test|unit|integration|security|chaos|fuzz|check|lint|types|image|package|newest|reproduce|pictures|run|dev|engine"
shift
case $command in
  up) up "$@" ;;
  check) check lint types ;;
  lint | types) check "$command" ;;
  integration)
    real integration tests --ignore=tests/security -m "($REAL_PARTS) and not long" "$@"
    ;;
  security) real security tests/security -m 'not long' "$@" ;;
  reproduce)
    ensure_venv dev
    ensure_engine
    "$VENV/bin/python" -m scripts.reproduce "$@"
    ;;
  newest)
    require_root newest
    ensure_venv dev
    ensure_real_parts
    "$VENV/bin/python" -m scripts.newest "$@"
    ;;
  unit) unit "$@" ;;
  test) all_tests "$@" ;;
  chaos) chaos "$@" ;;
  fuzz) fuzz "$@" ;;
  image)
    ensure_venv run
    ensure_engine
    ensure_image "$@"
    ;;
  pictures)
    require_root pictures
    ensure_venv dev
    ensure_real_parts
    export AIAGENTCHAT_PICTURES="$PWD/docs/pictures"
    "$VENV/bin/python" -m pytest tests/e2e/test_room_pictures.py tests/e2e/test_status_page.py "$@"
    ;;
  package)
    ensure_venv run
    package
    ;;
  run | dev) ensure_venv "$command" ;;
  engine)
    ensure_venv run
    ensure_engine
    ;;
  *) fail "setup.sh: unknown command: $command" ;;
esac
