#!/usr/bin/env bash
# The experiments of docs/experiments: one and a half hours on two cores, and on again where it was stopped.
#
#     benchmarks/experiments.sh [FOLDER]
set -euo pipefail
out=${1:-studies}
isogloss=${ISOGLOSS:-isogloss}
short=(--set data.seq_len=128 --set train.steps=200 --set optim.schedule.warmup=20)

# Meta Lingua's rule before and after its correction, at several depths and widths; heads without QK-norm, as there.
for shape in "128 4" "128 12" "128 24" "256 8"; do
  read -r width depth <<<"$shape"
  $isogloss init compare lingua lingua_before "${short[@]}" --set model.mixer.qk_norm=false \
    --set model.d_model="$width" --set model.n_layers="$depth" --set optim.lr=4e-3 --seeds 4 \
    --out "$out/origin/width-$width-depth-$depth"
done
# Whether the answer depends on the learning rate.
for rate in 1e-3 1.6e-2; do
  $isogloss init compare lingua lingua_before "${short[@]}" --set model.mixer.qk_norm=false \
    --set model.d_model=128 --set model.n_layers=12 --set optim.lr="$rate" --seeds 4 --out "$out/origin/rate-$rate"
done
