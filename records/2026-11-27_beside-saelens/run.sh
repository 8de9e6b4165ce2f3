#!/usr/bin/env bash
# Everything of this record, from the root of the checkout; after `benchmarks/environment`.
#   records/2026-11-27_beside-saelens/run.sh WORK      WORK holds the store (530 MB), the runs and SAELens' dictionaries
# About an hour and a half on two cores, two processes at a time, one thread each. What is there is not made again.
set -euo pipefail
here=records/2026-11-27_beside-saelens
seeds=records/2026-11-26_three-seeds # peers.py trains SAELens', judge.py judges both
work=$1
mkdir -p "$work"
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
kinds=(relu topk batchtopk matryoshka jumprelu gated)
fixed=(--training.selection fp32 --training.dense fp32 --training.border 0.1 --train-only --runs "$work/runs"
    --features 1024 --hook resid_post.3 --activations.store "$work/store") # nothing that is timed decides

[ -e "$work/store/manifest.json" ] || unmix harvest --hook resid_post.3 --tokens 1048576 --out "$work/store"

own() {
    for l0 in 20 100; do
        for seed in 1 2; do
            unmix sweep --architecture "${kinds[@]}" --l0 $l0 "${fixed[@]}" --training.lr 6e-3 --training.seed $seed \
                --name l$l0-seed-$seed
        done
        unmix sweep --architecture "${kinds[@]}" --l0 $l0 "${fixed[@]}" --training.lr 3e-3 --name l$l0-lr-3e-3
    done
    for seed in 1 2; do # those that were best at 1e-2 in 2026-11-26_centre
        unmix sweep --architecture matryoshka gated relu --l0 50 "${fixed[@]}" --training.lr 1e-2 --training.seed $seed \
            --name l50-lr-1e-2-seed-$seed
    done
    # L0 by request, every penalised kind, at a recipe's default learning rate
    unmix sweep --architecture relu jumprelu jumprelu_tanh jumprelu_quadratic gated --l0 10 20 50 100 200 300 \
        "${fixed[@]}" --name asked
    unmix sweep --architecture tanh_relu --l0 10 20 50 100 200 300 "${fixed[@]}" --name asked-tanh_relu
}

theirs() {
    local jobs=()
    for seed in 1 2; do
        for kind in topk batchtopk matryoshka; do jobs+=("$kind:50:6e-3:$seed:50"); done
    done
    jobs+=(jumprelu:50:6e-3:0:50 jumprelu:50:6e-3:1:50 jumprelu:50:6e-3:2:50)
    for kind in topk batchtopk matryoshka; do jobs+=("$kind:50:1e-2:0:50"); done
    for l0 in 20 100; do
        for kind in topk batchtopk matryoshka jumprelu; do jobs+=("$kind:$l0:6e-3:0:50"); done
    done
    jobs+=(jumprelu:50:3e-3:0:50 jumprelu:50:1e-2:0:50)
    for kind in relu gated; do jobs+=("$kind:50:3e-3:0:50" "$kind:50:6e-3:0:50" "$kind:50:1e-2:0:50"); done
    for l0 in 20 100; do
        for kind in topk batchtopk matryoshka; do jobs+=("$kind:$l0:3e-3:0:50" "$kind:$l0:1e-2:0:50"); done
    done
    printf '%s\n' "${jobs[@]}" |
        xargs -n 1 -P "${PROCESSES:-1}" benchmarks/.venv/bin/python $seeds/peers.py "$work/store" "$work/peers"
}

own &
theirs
wait
python $seeds/judge.py "$work/runs" "$work/peers" $here/evaluation.jsonl
python $here/table.py "$work/runs"
