#!/usr/bin/env bash
# Trains the tiny model with CISPO.
#
#   bash run_cispo.sh [--data FOLDER] [--ranks N] [option=value ...]
#
# --data FOLDER  train on GSM8K, as written by examples/gsm8k/gsm8k_dataset.py, instead of generated word problems
# --ranks N      number of processes (default 1)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../arguments.sh"

train -m skyrl_train.entrypoints.main_base --config "$here/cispo.yaml"
