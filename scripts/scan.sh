#!/bin/sh
# What is in a release, under which licences, and what must not be in it. See `make help`.
#
#   scan.sh sbom             dist/sbom-python.json: the packages of requirements.lock (CycloneDX), and
#                            dist/sbom-image.json: what is in the runner image, where there is one
#   scan.sh licences         the licences in those against scripts/licences.toml
#   scan.sh secrets          the sources against scripts/secrets-baseline.json
#   scan.sh tools            only the environment that these work in
#   scan.sh vulnerabilities  known ones of the locked packages; 69 where no database can be asked
#
# The tools are those of requirements-ci.lock, in an environment of their own.
set -eu
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
PLACE=.cache/scan
TOOLS=$PLACE/tools

# packages NAME LOCK: an environment with exactly the packages of a lock file.
packages() {
  stamp=$PLACE/$1/.lock
  if [ "$(cat "$stamp" 2> /dev/null)" = "$(sha256sum "$2")" ]; then return; fi
  printf '· the packages of %s …\n' "$2"
  "$PYTHON" -m venv --clear --without-pip "$PLACE/$1"
  "$PYTHON" -m venv "$PLACE/pip"
  "$PLACE/pip/bin/pip" --python "$PLACE/$1/bin/python" install --quiet --no-input \
    --disable-pip-version-check --progress-bar off --require-hashes --no-deps -r "$2" || {
    printf '\nCheck that a Python package index can be reached, then try again.\n' >&2
    exit 1
  }
  sha256sum "$2" > "$stamp"
}

sbom() {
  packages run requirements.lock
  mkdir -p dist
  "$TOOLS/bin/cyclonedx-py" environment --pyproject pyproject.toml --mc-type application \
    --spec-version 1.6 --output-format JSON --output-reproducible --validate \
    --output-file dist/sbom-python.json "$PLACE/run/bin/python"
  # This version's image; the tools' environment has nothing of ours to ask.
  image=$(.venv/bin/python -c '
from orchestrator.runners.image import read_source
print(read_source().tag)' 2> /dev/null || :)
  "$TOOLS/bin/python" -m scripts.image_sbom dist/sbom-image.json "${image:-aiagentchat/runner}"
}

vulnerabilities() {
  PATH="$PWD/.venv/bin:$PATH" "$TOOLS/bin/python" -m scripts.vulnerabilities
}

packages tools requirements-ci.lock
case ${1:-} in
  tools) ;;
  sbom) sbom ;;
  licences) "$TOOLS/bin/python" -m scripts.licences dist/sbom-*.json ;;
  secrets)
    shift
    "$TOOLS/bin/python" -m scripts.secret_scan "$@"
    ;;
  vulnerabilities) vulnerabilities ;;
  *)
    printf 'usage: scan.sh tools|sbom|licences|secrets|vulnerabilities\n' >&2
    exit 2
    ;;
esac
