#!/usr/bin/env bash
# The figures and tables of how DRA, OrthCR and ARF work, in docs/methods: see the head of each program in recipes/mechanisms.
# ARF's reads the records of recipes/arf.sh. Needs: pip install . ./lab. The same command again goes on where it stopped.
# Usage: recipes/mechanisms.sh [OUT OF RECIPES/ARF.SH]
set -euo pipefail
cd "$(dirname "$0")/.."
python recipes/mechanisms/dra.py
python recipes/mechanisms/orthcr.py
python recipes/mechanisms/arf.py --out "${1:-runs/laboratory}/robust-lab-robust-travel"
