#!/bin/bash
# The published recipes on a Slurm cluster, 8 GPUs of one machine, or of several:
#
#     sbatch scripts/cluster/slurm_8gpu.sh solov2 r50_3x --weights torchvision:resnet50
#     sbatch --nodes 2 scripts/cluster/slurm_8gpu.sh maskrcnn r50_fpn_1x --weights R-50.pkl --batch-size 32 --optimizer.lr 0.04
#     sbatch --nodes 1-4 scripts/cluster/slurm_8gpu.sh solov2 r50_3x --batch-size 96 --optimizer.lr 0.06
#
# A package, a variant, then any of train.py's flags. The batch size counts all GPUs together and is the variant's own
# unless it is named; change the learning rate with it. A job that was requeued goes on where it stopped.
# With --nodes 1-4 it has as many machines each time as are free then: the batch size is a multiple of 8, 16, 24 and 32.
#SBATCH --job-name=maskworks
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

package=${1:?which package? sbatch scripts/cluster/slurm_8gpu.sh PACKAGE VARIANT [flags of train.py]}
shift
run=${RUN:-runs/$package/slurm-$SLURM_JOB_ID}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

resume=()
if [[ -f $run/last.state ]]; then
    resume=(--resume)
fi
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m -- "$package.train" "$@" --run "$run" --workers 8 "${resume[@]}"
