#!/usr/bin/env bash
# Trains the tiny model with the advantage estimator defined in main_custom_advantage_estimator.py.
#
#   bash run_custom_advantage_estimator.sh [--data FOLDER] [--ranks N] [option=value ...]
#
# --data FOLDER  train on GSM8K, as written by examples/gsm8k/gsm8k_dataset.py, instead of generated word problems
# --ranks N      number of processes (default 1)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../arguments.sh"

train "$here/main_custom_advantage_estimator.py" --config "$here/custom_advantage_estimator.yaml"
