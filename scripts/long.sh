#!/bin/sh
# List the measurements that exist, each with the first line of its description.
set -eu
cd "$(dirname "$0")/.."

found=0
for file in bench/*.py; do
  case ${file##*/} in
    __init__.py | '*.py') continue ;;
  esac
  found=1
  name=$(echo "${file%.py}" | tr / .)
  printf '.venv/bin/python -m %s\n    %s\n' "$name" "$(sed -n '1s/^"*//; 1s/"*$//p' "$file")"
done
if [ "$found" -eq 0 ]; then echo "There is nothing in bench yet."; fi
