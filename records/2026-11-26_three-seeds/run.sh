#!/usr/bin/env bash
# Everything of this record, one thing after another, from the root of the checkout; after `benchmarks/environment`.
#   records/2026-11-26_three-seeds/run.sh WORK      WORK holds the store (530 MB), the runs and SAELens' dictionaries
# Two to three hours on one core that does nothing else. What is there already is not made again.
set -euo pipefail
here=records/2026-11-26_three-seeds
peers_python=benchmarks/.venv/bin/python
work=$1
mkdir -p "$work"
fixed=(--training.selection fp32 --training.dense fp32 --training.border 0.1 --train-only --runs "$work/runs")
raw=("${fixed[@]}" --activations.store "$work/store") # nothing that is timed decides
shape=(--features 1024 --hook resid_post.3)
kinds=(relu topk batchtopk matryoshka jumprelu gated)

[ -e "$work/store/manifest.json" ] || unmix harvest --hook resid_post.3 --tokens 1048576 --out "$work/store"

for seed in 0 1 2; do
    unmix sweep --architecture "${kinds[@]}" --l0 20 50 100 "${shape[@]}" "${raw[@]}" --training.seed $seed --name seed-$seed
done

# the controller beside fixed coefficients
unmix sweep --architecture jumprelu --l1 0.07 0.085 0.1 "${shape[@]}" "${raw[@]}" --name fixed-jumprelu
unmix sweep --architecture gated --l1 0.66 0.72 0.78 "${shape[@]}" "${raw[@]}" --name fixed-gated
unmix sweep --architecture relu --l1 0.56 0.62 0.68 "${shape[@]}" "${raw[@]}" --name fixed-relu

# other learning rates, free rows, more AuxK, activations without their mean
for lr in 1e-3 6e-3; do
    unmix sweep --architecture "${kinds[@]}" --l0 50 --training.lr $lr "${shape[@]}" "${raw[@]}" --name lr-$lr
done
unmix sweep $here/recipes/rows.yaml "${raw[@]}" --name try-rows
for how in centred mean-only scale-only; do
    [ -e "$work/store-$how/manifest.json" ] || python $here/centre.py "$work/store" "$work/store-$how" $how
done
for lr in 3e-3 6e-3; do
    unmix sweep --architecture "${kinds[@]}" --l0 50 --training.lr $lr "${shape[@]}" "${fixed[@]}" \
        --activations.store "$work/store-centred" --name centred-$lr
done
for how in mean-only scale-only; do # the first 1,000 steps of 2,000
    unmix sweep --architecture topk batchtopk matryoshka --l0 50 --training.lr 3e-3 "${shape[@]}" "${fixed[@]}" \
        --steps 1000 --training.decay_fraction 0 --training.revive_after_tokens 25600 \
        --training.dead_after_tokens 204800 --sae.scaling none \
        --activations.store "$work/store-$how" --name centred-why-$how
done

# SAELens: three learning rates for seed 0, and its default dead window once; then the best for the other seeds
jobs=(topk:50:3e-3:0:1000)
for kind in topk batchtopk matryoshka jumprelu gated relu; do
    for lr in 1e-3 3e-3 6e-3; do
        for l0 in 20 50; do jobs+=("$kind:$l0:$lr:0:50"); done
    done
    for seed in 1 2; do
        for l0 in 20 50; do jobs+=("$kind:$l0:6e-3:$seed:50"); done
    done
done
$peers_python $here/peers.py "$work/store" "$work/peers" "${jobs[@]}"

python $here/judge.py "$work/runs" "$work/peers"
python $here/behind.py "$work/store" "$work/runs" "$work/peers"
$peers_python $here/stability.py "$work/store" "$work/runs" "$work/peers"
python $here/table.py
