#!/bin/bash
# One training process where machines come and go: torchrun starts it anew each time, and it goes on from the last save.
#
#     torchrun --nnodes 1:4 --nproc-per-node 8 --max-restarts 100 --rdzv-backend c10d --rdzv-endpoint node0:29500 \
#         --no-python scripts/cluster/worker.sh solov2 runs/solov2/elastic r50_3x --batch-size 96 --optimizer.lr 0.06
#
# A package, the run's folder (on storage that all machines share), then train.py's variant and flags. The batch size
# counts all processes together: a multiple of 8, 16, 24 and 32 here, as many as there may be.
set -euo pipefail
package=${1:?which package? worker.sh PACKAGE RUN [flags of train.py]}
run=${2:?which folder? worker.sh PACKAGE RUN [flags of train.py]}
shift 2
resume=()
if [[ -f $run/last.state ]]; then
    resume=(--resume)
fi
exec python -m "$package.train" "$@" --run "$run" "${resume[@]}"
