#!/bin/sh
# Write the lock files anew: every package with its version and digests, for Python 3.11 and later.
set -eu
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
  --extra embedded --extra build -o requirements.lock pyproject.toml
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
  --extra embedded --extra build --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
# What guided fuzzing needs besides, and most machines never install. 3.0 is the last for Python 3.11.
echo 'atheris>=3.0,<3.1' | "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
  -o requirements-fuzz.lock -
# What looks through the packages and the sources for CI (scripts/scan.sh); nothing of it is imported.
printf '%s\n' 'cyclonedx-bom>=7.5' 'detect-secrets>=1.5' 'pip-audit>=2.10' | "$uv" pip compile --quiet \
  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --custom-compile-command "make lock" -o requirements-ci.lock -
