# Sourced by the run scripts: turns --data FOLDER and --ranks N into a training command.

ranks=1
options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data)
      [ $# -gt 1 ] || { echo "--data needs a folder with train.parquet and test.parquet" >&2; exit 2; }
      # A small model gives long answers to real questions: allow longer responses, and use smaller batches.
      options+=(environment.name=gsm8k "data.train=$2/train.parquet" "data.evaluation=$2/test.parquet"
        rollout.max_new_tokens=256 trainer.micro_batch_size=16)
      shift 2 ;;
    --ranks)
      [ $# -gt 1 ] || { echo "--ranks needs a number" >&2; exit 2; }
      ranks="$2"
      shift 2 ;;
    *)
      options+=("$1")
      shift ;;
  esac
done

# train PROGRAM [argument ...]: runs one process directly, several through accelerate.
train() {
  local program="$1"
  shift
  if [ "$ranks" -eq 1 ]; then
    exec python "$program" "$@" ${options[@]+"${options[@]}"}
  fi
  exec accelerate launch --num_processes "$ranks" --num_machines 1 --mixed_precision no --dynamo_backend no \
    --use_deepspeed "$program" "$@" ${options[@]+"${options[@]}"}
}
