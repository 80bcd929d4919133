#!/usr/bin/env bash
# Which drawings of the pretraining half equal one of the downstream half: makes tables/same.tsv from the installed packs (a minute).
set -euo pipefail
cd "$(dirname "$0")/.."
python -c "from steadyclip_lab.icons.duplicates import main; main()" > same.tsv.new
mv same.tsv.new lab/src/steadyclip_lab/icons/tables/same.tsv
