#!/bin/sh
# Makes every secret that compose.yaml and stack.yaml name, in deploy/secrets/, and secrets.env of the Kubernetes overlay. What is
# there already stays: running it again is safe.
#   deploy/make-secrets.sh [directory]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here}
secrets=$target/secrets
overlay=$target/kubernetes/overlays/example
umask 077
mkdir -p "$secrets" "$overlay"

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
# The directory is closed; the files in it are mounted one by one into containers, whose users are others than the one here.
make() {
  [ -e "$secrets/$1" ] || printf '%s' "$2" >"$secrets/$1"
  chmod 0444 "$secrets/$1"
}
read_secret() { cat "$secrets/$1"; }

make postgres-password "$(random 32)"
make redis-password "$(random 32)"
make s3-root-password "$(random 32)"
make s3-secret-key "$(random 20)"
make grafana-password "$(random 16)"
make admin-key "$(random 32)"
make cluster-secret "$(random 32)"
make database-url "postgres://bramble:$(read_secret postgres-password)@postgres:5432/bramble"
make redis-url "redis://:$(read_secret redis-password)@redis:6379"

# In the form of kustomize's secretGenerator.
[ -e "$overlay/secrets.env" ] || for name in postgres-password redis-password s3-root-password s3-secret-key admin-key cluster-secret database-url redis-url; do
  printf '%s=%s\n' "$name" "$(read_secret $name)"
done >"$overlay/secrets.env.new"
[ -e "$overlay/secrets.env" ] || mv "$overlay/secrets.env.new" "$overlay/secrets.env"

echo "secrets are in $secrets, and in $overlay/secrets.env"
