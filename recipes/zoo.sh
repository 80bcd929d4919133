#!/usr/bin/env bash
# The methods that people compare with, on the laboratory: the tables of docs/methods/zoo.md. Base to new joins what recipes/suite.sh
# left in the same folder, so that all methods stand beside the same baselines and are paired with them; the few-shot table has the methods
# that train on features of the frozen model, most of which know only the classes that they were trained on. --precision bf16 is for
# processors that multiply bf16 by themselves; on others leave it out. Needs: pip install . ./lab. The same command again goes on
# where it stopped. Usage: recipes/zoo.sh [SUITE_OUT] [FEW_SHOT_OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
suite="${1:-runs/suite}" few="${2:-runs/few-shot-suite-report}"
for seeds in "1" "1 2" "1 2 3"; do
  # shellcheck disable=SC2086
  steadyclip bench base-to-new --data suite-report --seeds $seeds --jobs 2 --precision bf16 --out "$suite" --methods \
    zero-shot full lora coop kgcoop prograd tcp clip-adapter
  # shellcheck disable=SC2086
  steadyclip bench few-shot --data suite-report --seeds $seeds --jobs 2 --precision bf16 --out "$few" --methods \
    zero-shot linear-probe tip-adapter tip-adapter-f clip-adapter taskres zs-lp clap cross-modal lp++
done
python recipes/records.py keep "$suite" suite
python recipes/records.py differences "$suite" suite-report
python recipes/records.py keep "$few" few-shot-suite-report
python recipes/tables.py
