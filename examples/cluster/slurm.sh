#!/usr/bin/env bash
# Trains one run on several nodes under Slurm. It ends by itself: before its time limit it saves and queues itself again.
#
#   sbatch examples/cluster/slurm.sh --dataset imagenet_lt --data-root /data/imagenet --output /shared/runs/imagenet
#
# The arguments are those of `fastlift train`. --output must be on a file system that all nodes share.
#
# Edit the #SBATCH lines below: nodes, GPUs and cores of a node, time, and what your site asks for (partition, account).
# Activate fastlift's environment before sbatch, which hands PATH on. --ntasks-per-node stays 1: torchrun starts a process a GPU.
#
# On interruption
#   time limit         120 s before it, all processes save and leave, and the job goes back to the queue. Give a larger step or
#                      a slow store more than 120 s. The next start runs the same command: --resume auto goes on.
#   a killed process   torchrun starts all processes again from the last checkpoint, up to --max-restarts times, here 3.
#   a lost node        Slurm requeues the job (--requeue).
#   preemption         Slurm requeues the job. Where its partition has no GraceTime, only checkpoints that lie on the disk
#                      remain: add --checkpoint-steps N.
#   scancel JOB        ends the job for good. To save before: scancel --batch --signal=USR1 JOB, then cancel it in the queue.
# A run that has finished ends with 0, also when its job is started again.
#
#SBATCH --job-name=fastlift
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node meet at ports of their own

noticed=
# Slurm signals the tasks: srun would make SIGKILL of SIGTERM, and torchrun would be killed by SIGUSR1.
# shellcheck disable=SC2329 # called by trap
notice() {
  trap '' USR1
  noticed=1
  scancel --signal=TERM "$SLURM_JOB_ID"
}
trap notice USR1

# A task that ends first leaves the others 60 s to save: without --kill-on-bad-exit=0 some sites end them at once. Since Slurm
# 22.05, srun has to be told the cores of a task again.
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$first:$port" --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  -m fastlift train "$@" --resume auto &
step=$!

wait "$step" && exit 0
code=$?
if [[ -n $noticed ]]; then # the signal ended the first wait, not the tasks, which are saving
  wait "$step" && exit 0
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
