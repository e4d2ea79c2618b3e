#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks.
#
# Usage: deploy/setup.sh              PostgreSQL, promtool, and a check for Rust and Go
#        deploy/setup.sh cargo-deny   the license checker
#        deploy/setup.sh cargo-fuzz   the fuzzer
set -euo pipefail
cargo_deny_version=0.20.2
cargo_fuzz_version=0.13.1

need() { # program, how to get it
  command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "installing packages takes root: run 'deploy/setup.sh' as root once, then this again" >&2
    exit 1
  fi
}

if [ "${1:-}" = cargo-deny ]; then
  cargo deny --version 2>/dev/null | grep -q "$cargo_deny_version" ||
    cargo install --locked --quiet cargo-deny --version "$cargo_deny_version"
  exit
fi

if [ "${1:-}" = cargo-fuzz ]; then
  need c++ "install a C++ compiler; it builds the fuzzer"
  cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz --version "$cargo_fuzz_version"
  exit
fi

need cargo "install Rust with rustup (https://rustup.rs)"
need go "install Go 1.26 or newer (https://go.dev/dl); it builds the API server that tests run"
if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
  need apt-get "install PostgreSQL 15 or newer with its server programs"
  echo "installing PostgreSQL" >&2
  as_root apt-get update -qq
  # The distribution would start a cluster of its own; glowplug starts what it needs.
  as_root mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql >/dev/null
fi
if ! command -v promtool >/dev/null; then
  need apt-get "install promtool, which is part of Prometheus (https://prometheus.io)"
  echo "installing promtool" >&2
  # The one program out of its package: installing that would start a server.
  folder="$(mktemp -d)"
  chmod 755 "$folder"
  if ! (cd "$folder" && apt-get download -qq prometheus 2>/dev/null); then
    as_root apt-get update -qq
    (cd "$folder" && apt-get download -qq prometheus)
  fi
  dpkg-deb -x "$folder"/prometheus_*.deb "$folder/unpacked"
  as_root install -m 755 "$folder/unpacked/usr/bin/promtool" /usr/local/bin/promtool
  rm -r "$folder"
fi
