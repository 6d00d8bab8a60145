#!/usr/bin/env bash
# Trains the tiny model with the advantage estimator that main_custom_advantage_estimator.py defines.
#
#   bash run_custom_advantage_estimator.sh [--data FOLDER] [--ranks N] [option=value ...]
#
# --data FOLDER  GSM8K as examples/gsm8k/gsm8k_dataset.py writes it, instead of generated word problems
# --ranks N      processes (default 1)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../arguments.sh"

train "$here/main_custom_advantage_estimator.py" --config "$here/custom_advantage_estimator.yaml"
