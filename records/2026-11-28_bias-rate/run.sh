#!/usr/bin/env bash
# Everything of this record, from the root of the checkout, after records/2026-11-27_smollm2-beside-saelens/run.sh WORK.
#   records/2026-11-28_bias-rate/run.sh WORK        an hour of one core
set -euo pipefail
here=records/2026-11-28_bias-rate
work=$1
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
fixed=(--training.selection fp32 --training.dense fp32 --training.border 0.1 --training.log_every 50 --train-only)
place=(--model smollm2 --corpus "$work/english" --activations.store "$work/smollm2" --hook resid_post.15 --features 2048
    --steps 1000 --training.batch_tokens 512 --training.checkpoint_every 1000 --runs "$work/rate")
emb=(--hook resid_post.3 --activations.store "$work/store" --features 1024 --architecture relu --l0 20 50 100
    --training.batch_tokens 512 --training.checkpoint_every 2000 --runs "$work/emb")

[ -e "$work/store/manifest.json" ] || unmix harvest --hook resid_post.3 --tokens 1048576 --out "$work/store"
sweep() { # NAME OPTION …
    unmix sweep "${place[@]}" "${fixed[@]}" --name "$@"
}
# fixed coefficients
for centre in none start; do
    sweep centre-$centre --architecture relu --sae.centre $centre --sae.bias_rate 1 --l1 1.4 1.9 2.6 3.6
done
sweep biases-3 --architecture relu --sae.bias_rate 3 --l1 1.9 2.6 3.6 5
for rate in 1 10 30 100; do sweep biases-$rate --architecture relu --sae.bias_rate $rate --l1 1.4 1.9 2.6 3.6; done
sweep fixed-6e-3 --architecture relu --sae.bias_rate 1 --training.lr 6e-3 --l1 1.4 1.9 2.6 3.6
# by request
for rate in 1 24; do
    sweep all-$rate --architecture batchtopk jumprelu relu --sae.bias_rate $rate --l0 20 50 100
    for lr in 6e-3 1.2e-2; do sweep $lr-$rate --architecture relu --sae.bias_rate $rate --l0 20 50 100 --training.lr $lr; done
done
for lr in 3e-3 6e-3 1.2e-2; do sweep $lr-8 --architecture relu --sae.bias_rate 8 --l0 20 50 100 --training.lr $lr; done
sweep 6e-3-3 --architecture relu --sae.bias_rate 3 --l0 20 50 100 --training.lr 6e-3
for rate in 1 16; do
    for lr in 3e-3 6e-3; do
        unmix sweep "${emb[@]}" "${fixed[@]}" --steps 2000 --sae.bias_rate $rate --training.lr $lr --name $lr-$rate
    done
done
for rate in 1 5.333333; do
    unmix sweep "${emb[@]}" "${fixed[@]}" --steps 6000 --sae.bias_rate $rate --name long-$rate
done
(cd "$work" && unmix sweep "$OLDPWD/$here/forecast/recipe.yaml" --runs "$work" --train-only) # metrics.jsonl, fewer columns
python $here/table.py "$work"/rate/* "$work"/emb/*
