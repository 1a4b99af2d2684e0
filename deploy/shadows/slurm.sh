#!/bin/sh
# A bank of models as a Slurm array: task i of N trains the models m with m mod N = i.
#
#   sordino shadows plan … --out "$BANK"
#   sbatch --array=0-7 --export=ALL,BANK="$BANK",DATA=csv:table.csv deploy/shadows/slurm.sh
#   sordino shadows merge --out "$BANK"          # or: sbatch --dependency=afterok:JOB --wrap "…"
#
# The array counts from 0. BANK is a folder that every node sees, or an object store (feature `cloud`). Two minutes before the
# time limit the task is told to stop, leaves its checkpoints and is queued again; it goes on from there.
#SBATCH --job-name=sordino-shadows
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu

: "${BANK:?expected the folder or URL of the bank in BANK}"
: "${DATA:?expected the data source of the plan in DATA}"
sordino=${SORDINO:-sordino}

"$sordino" shadows run "$BANK" --data "$DATA" --shards "${SLURM_ARRAY_TASK_COUNT:?expected an array}" \
    --jobs "${JOBS:-1}" --threads "${THREADS:-${SLURM_CPUS_PER_TASK:-1}}" --device "${DEVICE:-cpu}" &
training=$!
stopped=no
trap 'stopped=yes; kill -TERM "$training"' TERM INT
code=0
wait "$training" || code=$?
if [ "$stopped" = yes ]; then
    # The first wait ended with the signal: wait for the checkpoint too.
    code=0
    wait "$training" || code=$?
    # 143: stopped, and there is more to do.
    if [ "$code" -eq 143 ] && command -v scontrol >/dev/null; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    fi
fi
exit "$code"
