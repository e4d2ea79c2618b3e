#!/usr/bin/env bash
# Builds the pinned Go programs that tests run (etcd, Kubernetes, helm), once.
#
# Usage: tests/tools/build.sh            prints the directory that holds the programs
# They are kept outside the checkout, under GLOWPLUG_TOOLS or the XDG cache: each module's
# in a folder named after its pins, so that a changed pin builds that module anew, and all
# of them as links in one folder.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="${GLOWPLUG_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/glowplug/tools}"
kubernetes=k8s.io/component-base/version.gitVersion=v1.34.4
helm="helm.sh/helm/v3/internal/version.version=v3.21.4
  helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34
  helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=34"

hash() { sha256sum | cut -c1-12; }

links="$root/bin-$(cat "$here"/*/go.mod "$here"/*/go.sum "$here"/*/*.go "$here/build.sh" | hash)"
mkdir -p "$links"

build() { # module folder, package, program, variables of the program that are set
  local out flags="-s -w" variable
  out="$root/$1-$( (cat "$here/$1"/go.* "$here/$1"/*.go 2>/dev/null || true; echo "$4") | hash)"
  for variable in $4; do flags+=" -X $variable"; done
  if [ ! -x "$out/$3" ]; then
    echo "building $3 (once; kept in $out)" >&2
    mkdir -p "$out"
    (cd "$here/$1" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 \
      go build -trimpath -ldflags "$flags" -o "$out/.$3.$$" "$2")
    mv "$out/.$3.$$" "$out/$3"
  fi
  ln -sfn "$out/$3" "$links/$3"
}

build etcd go.etcd.io/etcd/server/v3 etcd ""
build kubernetes k8s.io/kubernetes/cmd/kube-apiserver kube-apiserver "$kubernetes"
build kubernetes k8s.io/kubernetes/cmd/kubectl kubectl "$kubernetes"
build helm helm.sh/helm/v3/cmd/helm helm "$helm"
build monitors . check-monitors ""
echo "$links"
