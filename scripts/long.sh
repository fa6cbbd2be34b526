#!/bin/sh
# List the long forms that exist, each with the first line of its description.
set -eu
cd "$(dirname "$0")/.."

case ${1:-} in
  bench) folder=bench how='.venv/bin/python -m' ;;
  chaos) folder=tests/chaos how='.venv/bin/python -m pytest' ;;
  *)
    echo "usage: long.sh bench|chaos" >&2
    exit 2
    ;;
esac

found=0
for file in "$folder"/*.py; do
  case ${file##*/} in
    __init__.py | conftest.py | '*.py') continue ;;
  esac
  found=1
  case $folder in
    bench) name=$(echo "${file%.py}" | tr / .) ;;
    *) name=$file ;;
  esac
  printf '%s %s\n    %s\n' "$how" "$name" "$(sed -n '1s/^"*//; 1s/"*$//p' "$file")"
done
if [ "$found" -eq 0 ]; then echo "There is nothing in $folder yet."; fi
