#!/usr/bin/env bash
# Everything of this record, from the root of the checkout; after `benchmarks/environment` and `unmix fetch smollm2`.
#   records/2026-11-27_smollm2-beside-saelens/run.sh WORK      WORK holds corpus, store (640 MB) and dictionaries
# Hours of one core. What is there is not made again.
set -euo pipefail
here=records/2026-11-27_smollm2-beside-saelens
seeds=records/2026-11-26_three-seeds # peers.py trains SAELens', judge.py judges both
work=$1
mkdir -p "$work"
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
place=(--hook resid_post.15 --features 2048 --steps 1000)
fixed=(--training.selection fp32 --training.dense fp32 --training.border 0.1) # nothing that is timed decides

[ -e "$work/english" ] || scripts/english_corpus "$work/english"
[ -e "$work/smollm2/manifest.json" ] || unmix harvest --model smollm2 --corpus "$work/english" --hook resid_post.15 \
    --tokens 557056 --out "$work/smollm2"

own() { # SEED RATE NAME L0 …; KINDS, if they are not all
    unmix sweep --model smollm2 --corpus "$work/english" --activations.store "$work/smollm2" "${place[@]}" "${fixed[@]}" \
        --training.batch_tokens 512 --training.log_every 50 --training.checkpoint_every 1000 --train-only \
        --architecture ${KINDS:-batchtopk jumprelu matryoshka relu} --l0 "${@:4}" --training.seed "$1" --training.lr "$2" \
        --runs "$work/runs" --name "$3"
}

theirs() { # START MOST JOB …: the coefficients to begin with, how many are tried
    benchmarks/.venv/bin/python $seeds/peers.py "$work/smollm2" "$work/peers" "${@:3}" "${place[@]}" --longest 10 \
        --start "$1" --most "$2"
}

own 0 3e-3 seed-0 20 50 100
own 0 6e-3 lr-6e-3 50
own 0 6e-3 lr-6e-3-more 20 100
own 0 1.2e-2 lr-1.2e-2 50
own 0 1.2e-2 lr-1.2e-2-more 20 100
own 1 6e-3 seed-1 50
own 2 6e-3 seed-2 50
KINDS=jumprelu own 1 3e-3 jumprelu-1 50
KINDS=jumprelu own 2 3e-3 jumprelu-2 50
for seed in 1 2; do # the other L0s, each at its best rate
    KINDS="batchtopk jumprelu" own $seed 3e-3 seed-$seed-20 20
    KINDS="batchtopk jumprelu" own $seed 6e-3 seed-$seed-100 100
    KINDS=matryoshka own $seed 6e-3 seed-$seed-matryoshka 20
    KINDS=matryoshka own $seed 1.2e-2 seed-$seed-matryoshka-100 100
    KINDS=relu own $seed 6e-3 relu-seed-$seed 20 50 100
done
KINDS="batchtopk jumprelu" own 0 1.5e-3 lr-1.5e-3 20 50 # beyond the lowest rate, and the highest
KINDS=matryoshka own 0 2.4e-2 lr-2.4e-2-matryoshka 100
for lr in 3e-3 6e-3; do # relu before `sae.bias_rate`: as far as the rest
    for asked in "l1 1.4 1.9 2.6 3.6" "l0 20 50 100"; do
        unmix sweep --model smollm2 --corpus "$work/english" --activations.store "$work/smollm2" "${place[@]}" \
            "${fixed[@]}" --training.batch_tokens 512 --training.log_every 50 --training.checkpoint_every 1000 \
            --train-only --architecture relu --sae.bias_rate 1 --$asked --training.lr $lr --runs "$work/fixed" \
            --name ${asked%% *}-$lr
    done
done
python $here/biases.py "$work/fixed"
python $here/table.py --start "$work/runs/seed-0" # where ours ended
theirs $here/start.json 3 {batchtopk,matryoshka,jumprelu,relu}:50:3e-3:0:50
theirs $here/start.json 3 {batchtopk,matryoshka}:50:{6e-3,1.5e-3}:0:50
theirs $here/start.json 3 {batchtopk,matryoshka}:{20,100}:3e-3:0:50
theirs $here/start_after.json 3 {jumprelu,relu}:50:6e-3:0:50 # from where the search at 3e-3 ended
theirs $here/start_6e-3.json 3 {batchtopk,matryoshka}:{20,100}:6e-3:0:50
theirs $here/start_6e-3.json 2 {jumprelu,relu}:{20,100}:6e-3:0:50 # from where that at 6e-3 ended
theirs $here/start_6e-3.json 3 {batchtopk,matryoshka}:50:3e-3:{1,2}:50
theirs $here/start_6e-3.json 1 {jumprelu,relu}:50:6e-3:{1,2}:50
theirs $here/start_seeds.json 1 {batchtopk,matryoshka}:{20,100}:3e-3:{1,2}:50
theirs $here/start_seeds.json 1 {jumprelu,relu}:{20,100}:6e-3:{1,2}:50 # from between what seed 0 found
theirs $here/start_6e-3.json 2 {jumprelu,relu}:{20,50,100}:1.2e-2:0:50
theirs $here/start_6e-3.json 2 {jumprelu,relu}:{20,100}:3e-3:0:50
theirs $here/start_6e-3.json 3 {batchtopk,matryoshka}:{20,100}:1.5e-3:0:50
cp "$work/peers/runs.jsonl" $here/peers.jsonl
# SAELens' that are furthest from the L0 asked for, or not at its best rate, were left out of this
python $seeds/judge.py "$work/runs" "$work/peers" $here/evaluation.jsonl --model smollm2 --corpus "$work/english" \
    --hook resid_post.15 --ce 8000
python $here/table.py
