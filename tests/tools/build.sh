#!/usr/bin/env bash
# Builds the pinned Kubernetes and etcd programs of the API-server tests, once.
#
# Usage: tests/tools/build.sh            prints the directory that holds the programs
# They are kept outside the checkout, under GLOWPLUG_TOOLS or the XDG cache, in a
# folder named after what they are built from, so a changed pin builds anew.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
kubernetes_version=v1.34.4
pins="$(cat "$here"/*/go.mod "$here"/*/go.sum "$here/build.sh" | sha256sum | cut -c1-12)"
out="${GLOWPLUG_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/glowplug/tools}/$pins"

build() { # module folder, package, program
  [ -x "$out/$3" ] && return
  echo "building $3 (once; kept in $out)" >&2
  local ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes_version"
  (cd "$here/$1" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 \
    go build -trimpath -ldflags "$ldflags" -o "$out/.$3.$$" "$2")
  mv "$out/.$3.$$" "$out/$3"
}

mkdir -p "$out"
build etcd go.etcd.io/etcd/server/v3 etcd
build kubernetes k8s.io/kubernetes/cmd/kube-apiserver kube-apiserver
build kubernetes k8s.io/kubernetes/cmd/kubectl kubectl
echo "$out"
