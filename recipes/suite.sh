#!/usr/bin/env bash
# Base to new on the twelve data sets of the laboratory, 16 shots, seeds 1-3: the tables of README.md and docs/results.md. How long it took
# stands in docs/results.md. --precision bf16, for training and scoring, more than halves the time where the processor
# multiplies bf16 by itself (AMX, AVX512-BF16); elsewhere leave it out.
# Needs: pip install . ./lab. The same command again goes on where it stopped. Usage: recipes/suite.sh [OUT]
# To continue the published table, with a seed more or a row of your own, start from its records:
#   python recipes/records.py unpack results/suite-records.tar.xz OUT
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/suite}"
# seed after seed, so that there is a whole table early
for seeds in "1" "1 2" "1 2 3"; do
  # shellcheck disable=SC2086
  steadyclip bench base-to-new --data suite --seeds $seeds --jobs 2 --precision bf16 --out "$out" --methods \
    zero-shot full lora coop flyp dra orthcr orthsr
done
python recipes/records.py keep "$out" suite
# of the eight data sets that settings were not chosen on, alone
python recipes/records.py differences "$out" suite-report
python recipes/tables.py
