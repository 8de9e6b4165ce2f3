#!/usr/bin/env bash
# Everything of this record, from the root of the checkout.
#   records/2026-11-26_centre/run.sh WORK      WORK holds the store (530 MB) and the runs
# About half an hour on one core that does nothing else. What is there already is not made again.
set -euo pipefail
here=records/2026-11-26_centre
work=$1
mkdir -p "$work"
kinds=(relu topk batchtopk matryoshka jumprelu gated)
fixed=(--training.selection fp32 --training.dense fp32 --training.border 0.1 --train-only --runs "$work/runs"
    --features 1024 --hook resid_post.3 --activations.store "$work/store") # nothing that is timed decides

[ -e "$work/store/manifest.json" ] || unmix harvest --hook resid_post.3 --tokens 1048576 --out "$work/store"
for lr in 3e-3 6e-3 1e-2; do
    unmix sweep --architecture "${kinds[@]}" --l0 50 "${fixed[@]}" --training.lr $lr --name lr-$lr
done
for seed in 1 2; do
    unmix sweep --architecture "${kinds[@]}" --l0 50 "${fixed[@]}" --training.lr 6e-3 --training.seed $seed --name l50-seed-$seed
done
for l0 in 20 100; do
    unmix sweep --architecture "${kinds[@]}" --l0 $l0 "${fixed[@]}" --training.lr 6e-3 --training.seed 0 --name l$l0-seed-0
done
python records/2026-11-26_three-seeds/judge.py "$work/runs" "$work/peers" $here/evaluation.jsonl
python $here/table.py
