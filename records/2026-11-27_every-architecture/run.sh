#!/usr/bin/env bash
# Everything of this record, from the root of the checkout; stability.py needs scipy (`pip install scipy`).
#   records/2026-11-27_every-architecture/run.sh WORK      WORK holds the store (530 MB) and the runs
# Two processes at a time, one thread each; its time was not measured alone. What is there is not made again.
set -euo pipefail
here=records/2026-11-27_every-architecture
seeds=records/2026-11-26_three-seeds # judge.py and stability.py are there
work=$1
mkdir -p "$work"
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
kinds=(relu topk abstopk batchtopk matryoshka jumprelu jumprelu_tanh jumprelu_quadratic gated)
fixed=(--training.selection fp32 --training.dense fp32 --training.border 0.1 --train-only --runs "$work/runs"
    --features 1024 --hook resid_post.3 --activations.store "$work/store") # nothing that is timed decides

[ -e "$work/store/manifest.json" ] || unmix harvest --hook resid_post.3 --tokens 1048576 --out "$work/store"

seed() { unmix sweep --architecture "${kinds[@]}" --l0 20 50 100 "${fixed[@]}" --training.seed "$1" --name "seed-$1"; }
truth() {
    [ -e $here/truth.jsonl ] && return
    unmix bench truth --architecture "${kinds[@]}" --seed 0 1 2 --out "$work/truth"
    cp "$work/truth/truth.jsonl" $here/truth.jsonl
}

(seed 0 && seed 1) &
(seed 2 && truth)
wait
python $seeds/judge.py "$work/runs" "$work/peers" $here/evaluation.jsonl

# the coefficient that the controller ended with at L0 50, and those around it, held fixed
while read -r kind coefficients; do
    # shellcheck disable=SC2086
    unmix sweep --architecture "$kind" --l1 $coefficients "${fixed[@]}" --name "fixed-$kind"
done < <(python $here/table.py --around)
python $seeds/judge.py "$work/runs" "$work/peers" $here/evaluation.jsonl
python $seeds/stability.py "$work/store" "$work/runs" "$work/peers" $here/stability.jsonl
python $here/table.py
