#!/usr/bin/env bash
# The experiments of docs/experiments: about an hour and a half on two cores, and on again where it was stopped.
#
#     benchmarks/experiments.sh [FOLDER]
set -euo pipefail
out=${1:-studies}
compare="${ISOGLOSS:-isogloss} init compare"
short="--set data.seq_len=128 --set train.steps=200 --set optim.schedule.warmup=20"

# Which scheme this library begins with: first many, then the best of them with more seeds, and deeper.
$compare lingua lingua:embedding_std=1 lingua:depth_factor=disabled,embedding_std=1 gpt2 olmo_mitchell spike_no_more \
  torchtitan_llama3 nanochat completep $short --rates 3e-3,6e-3,1.2e-2 --seeds 1 --out "$out/default/many"

# Meta Lingua's rule before and after its correction, at several depths and widths; heads without QK-norm, as there.
origin="lingua lingua_before $short --set model.mixer.qk_norm=false --seeds 4"
for shape in "64 4" "64 12" "64 32" "128 4" "128 12" "192 6"; do
  read -r width depth <<<"$shape"
  $compare $origin --set model.d_model="$width" --set model.n_layers="$depth" --set optim.lr=4e-3 \
    --out "$out/origin/width-$width-depth-$depth"
done
# Whether the answer depends on the learning rate.
for rate in 1e-3 1.6e-2; do
  $compare $origin --set model.d_model=128 --set model.n_layers=4 --set optim.lr="$rate" --out "$out/origin/rate-$rate"
done
