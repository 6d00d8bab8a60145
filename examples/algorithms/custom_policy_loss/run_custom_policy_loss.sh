#!/usr/bin/env bash
# Trains the tiny model with the loss that main_custom_policy_loss.py defines.
#
#   bash run_custom_policy_loss.sh [--data FOLDER] [--ranks N] [option=value ...]
#
# --data FOLDER  GSM8K as examples/gsm8k/gsm8k_dataset.py writes it, instead of generated word problems
# --ranks N      processes (default 1)
# W&B gets the run online if WANDB_API_KEY is set; without it the run is kept offline, in the run folder.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../arguments.sh"

train "$here/main_custom_policy_loss.py" \
  --config "$here/custom_policy_loss.yaml" \
  +trainer.algorithm.my_custom_loss.my_param=1.5
