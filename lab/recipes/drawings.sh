#!/usr/bin/env bash
# Fetches the icon sets (npm is needed, 104 MB) and makes from them: the drawings that steadyclip-lab ships, their credits, and the pairs
# that icons-small is pretrained on. Takes about five minutes on two cores. Usage: lab/recipes/drawings.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${1:-runs/drawings}"
version=$(python -c "from steadyclip_lab.drawings.sets import VERSION; print(VERSION)")
if [ ! -f "$out/package/package.json" ]; then
  command -v npm > /dev/null || { echo "npm is not installed: install Node.js, or go on with the drawings that steadyclip-lab ships." >&2; exit 1; }
  mkdir -p "$out"
  (cd "$out" && npm pack --silent "@iconify/json@$version" && tar xzf "iconify-json-$version.tgz")
fi
python -m steadyclip_lab.drawings.making "$out/package" "$out"
mv "$out/pretraining.tsv.xz" lab/recipes/pretraining.tsv.xz
