#!/usr/bin/env bash
# Trains the tiny model with the loss defined in main_custom_policy_loss.py.
#
#   bash run_custom_policy_loss.sh [--data FOLDER] [--ranks N] [option=value ...]
#
# --data FOLDER  train on GSM8K, as written by examples/gsm8k/gsm8k_dataset.py, instead of generated word problems
# --ranks N      number of processes (default 1)
# If WANDB_API_KEY is set, the run is logged to W&B; otherwise W&B stays offline and writes to the run folder.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../arguments.sh"

train "$here/main_custom_policy_loss.py" \
  --config "$here/custom_policy_loss.yaml" \
  +trainer.algorithm.my_custom_loss.my_param=1.5
