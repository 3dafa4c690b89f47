#!/bin/sh
# Becomes `bramble`. `NAME_FILE=/path` in the environment is `NAME=<what is in the file>`, as images of databases have it: secrets
# come as files, and the program reads variables.
set -eu

for name in $(env | sed -n 's/^\(\(BRAMBLE\|AWS\)_[A-Z0-9_]*\)_FILE=.*/\1/p'); do
  eval "file=\$${name}_FILE"
  [ -r "$file" ] || { echo "bramble: ${name}_FILE names $file, which cannot be read" >&2; exit 125; }
  value=$(cat "$file")
  export "$name=$value"
  unset "${name}_FILE"
done

exec /opt/bramble/bramble "$@"
