#!/usr/bin/env bash
# Everything that is measured beside llama.cpp, on an idle machine: makes the model files in fetched/ that are not there yet, then
# writes benches/results/MACHINE.csv (products), MACHINE-speed.csv and MACHINE-batch.csv (files of rows), and prints the start-up times and the speed beside a busy program. Takes an hour or so.
# scripts/yardstick.sh [THREADS, 2 if absent]
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2}

scripts/fetch-models.sh
cargo build --release
(cd yardstick && cargo build --release --bins)
bin=target/yardstick/release
models=$PWD/fetched
source=$models/SmolLM2-135M-Instruct.Q4_1.gguf

files=()
for type in Q4_0 Q4_1 Q4_K_M Q8_0 Q6_K; do
  file=$models/SmolLM2-135M.$type.gguf
  if [[ ! -f $file ]]; then
    $bin/quantize "$source" "$file.part" "$type"
    mv "$file.part" "$file"
  fi
  files+=("$file")
done
files+=("$models/gemma-3-270m-q4_k_m.gguf")
if [[ ! -f $models/synthetic-1b.Q4_K_M.gguf ]]; then
  $bin/synthetic "$models"
fi
files+=("$models/synthetic-1b.Q4_K_M.gguf" "$models/synthetic-1b.Q8_0.gguf")

$bin/ops --threads 1
((threads == 1)) || $bin/ops --threads "$threads"
for file in "${files[@]}"; do
  echo "== $(basename "$file")"
  $bin/speed "$file" --threads "$threads" --save
done
for type in Q8_0 Q4_0 Q4_K_M; do
  echo "== SmolLM2-135M.$type"
  $bin/batch "$models/SmolLM2-135M.$type.gguf" --threads "$threads" --rows 2000 --tune-rows 100 --save
done
for file in "$models/SmolLM2-135M.Q4_0.gguf" "$models/gemma-3-270m-q4_k_m.gguf"; do
  echo "== $(basename "$file")"
  $bin/startup "$file" --threads "$threads"
  $bin/company "$file" --threads "$threads"
done
