#!/usr/bin/env bash
# Usage: scripts/first_gpu_hour.sh [--list | --rehearse] [STEP...]
#
# What to run first on a machine with a GPU, from most to least telling: nothing of whyrank's CUDA half has run on one yet. Each
# step says what is expected and what to do if it comes otherwise. The first four say most; all take an hour or two on an H100,
# much of it starts of engines. Steps that are named run alone. Needs scripts/setup --cuda, and nothing from the network after that.
#
# Into first-gpu-hour/: a log for each step, results.json, table.md for the README. --list shows the steps and runs nothing.
# --rehearse runs the smallest shape of each that the engine installed here can do, to see that commands and tables work.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
if [ -n "${WHYRANK_PYTHON:-}" ]; then python=$WHYRANK_PYTHON; fi
out=first-gpu-hour mode=run
case "${1:-}" in
  -h | --help) sed -n '2,/^set /{/^set /!s/^#\( \|$\)//p}' "${BASH_SOURCE[0]}" && exit ;;
  --list | --rehearse) mode=${1#--} && shift ;;
esac
wanted=("$@")

# step NAME MINUTES EXPECTED OTHERWISE COMMAND...: its last line on stdout, where that is JSON, is the result.
step() {
  local name=$1 minutes=$2 expected=$3 otherwise=$4 began code
  shift 4
  if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
  printf '\n== %s (up to %d minutes)\n   expected:  %s\n   otherwise: %s\n   %s\n' "$name" "$minutes" "$expected" "$otherwise" "$*"
  if [ "$mode" = list ]; then return; fi
  began=$SECONDS
  timeout "$((minutes * 60))" "$@" >"$out/$name.out" 2>"$out/$name.log"
  code=$?
  printf '%s\t%d\t%d\t%s\t%s\n' "$name" "$code" $((SECONDS - began)) "$expected" "$*" >>"$out/steps.tsv"
  printf '   exit status %d after %d s; %s\n' "$code" $((SECONDS - began)) "$out/$name.out and .log"
  tail -n 3 "$out/$name.out" | cut -c 1-400 | sed 's/^/   | /'
}

if [ "$mode" != list ]; then
  mkdir -p "$out"
  : >"$out/steps.tsv"
fi

small_06=qwen3-0.6b small_08=qwen3.5-0.8b all=(qwen3-0.6b qwen3.5-0.8b qwen3-4b qwen3.5-4b)
counts=(1 20 100 1000) repeats=3 few=(100 1000)
if [ "$mode" = rehearse ]; then
  small_06=nano-qwen3 small_08=tiny-qwen3.5 all=(nano-qwen3) counts=(4) repeats=1 few=(4)
fi
# With a stub for a GPU (scripts/rehearse_cuda --first-hour) engines run, and no kernel does: nothing of plain transformers.
plain=() card=()
if [ -n "${REHEARSAL_FOLDER:-}" ]; then
  plain=(--without transformers_loop transformers_batch32 cross_encoder) card=(--without-card)
fi
score=("$python" scripts/bench_score.py --repeats "$repeats" --patience 60)
# The bare engine and ours alone: for comparing settings of the engine.
engine=("${score[@]}" --without vllm_generate_text vllm_generative_scoring transformers_loop transformers_batch32 cross_encoder)

step gpu 3 "nothing is said" \
  "the message names the driver; nothing below can work before that" \
  "$python" -m whyrank.engine_install check-gpu

step parity 20 "all pass: scores are those of transformers on every route and kind of model, and the cache hits" \
  "a test names its route: parity is about dtypes (facts in its output), the cache about prefix_match_unit; begin with generate" \
  "$python" -m pytest tests/test_gpu.py -m gpu -q -p no:cacheprovider

step start 6 "under 60 s the second time, when compiled graphs are kept (a guess)" \
  "see which part takes long: whyrank serve demo --verbose; --enforce-eager tells how much of it are graphs" \
  "$python" -m whyrank rerank -q "boiling point" "Water boils at 100 degrees." "Everest is high." --json

step score 40 "on an H100 1,500 to 2,000 documents/s of qwen3-0.6b in calls of 1,000 (an estimate from CPU costs), 0.9 or more of vllm_generate" \
  "compare cpu_us_a_pair of scripts/rehearse_cuda: above 500 us a process is the limit; else nsys on the engine's process" \
  "${score[@]}" --shape "${all[@]}" --counts "${counts[@]}" "${plain[@]}"

step evidence 6 "first evidence within 0.5 s of the first score, 3 times the card's loop or more with 10 relevant documents" \
  "decoding is slow where graphs are not used: look for full graphs in --verbose; try --engine-options of other capture sizes" \
  "$python" scripts/bench_evidence.py --repeats "$repeats" "${card[@]}"

for backend in triton flashinfer; do
  step "linear-attention-$backend" 6 "FlashInfer is faster on long prompts; its first prompt compiles for a minute or so, and needs nvcc" \
    "if triton is within 10 %: make it the default (runtimes/vllm_engine.py, _fits_flashinfer), which needs no compiler" \
    "${engine[@]}" --shape "$small_08" --counts "${few[@]}" --engine-options "{\"gdn_prefill_backend\": \"$backend\"}"
done

for async in false true; do
  step "classify-async-$async" 6 "true is faster by what the scheduler takes, some 10 % at 0.6B; scores agree" \
    "if true is faster and nothing fails: set async_scheduling in runtimes/classify.py" \
    "${score[@]}" --without transformers_batch32 cross_encoder --shape "$small_06" --route classify --counts "${few[@]}" \
    --engine-options "{\"async_scheduling\": $async}" "${plain[@]}"
done

for servers in 1 2 4; do
  step "api-servers-$servers" 6 "2 raise the throughput of many callers where one process is at 100 % of a core, 4 add little" \
    "if they help: say so in docs/operations.md; if calls get slower, the engine's core is the limit" \
    "$python" scripts/bench_server.py --shape "$small_06" --repeats "$repeats" --server-flags "--api-server-count $servers"
done

step fp8 6 "1.2 to 1.6 times the documents/s of the same shape in bf16" \
  "if scores do not agree with transformers within 0.5: advise against it in docs/operations.md" \
  "${engine[@]}" --shape "${all[-1]}" --counts "${few[@]}" --quantization fp8_per_tensor

for options in '{"max_num_seqs": 512}' '{"max_num_seqs": 1024}' '{"block_size": 32}' '{"max_num_batched_tokens": 8192}'; do
  name=$(tr -dc 'a-z_0-9' <<<"$options")
  step "engine-$name" 6 "within 5 % of the step score, where the defaults are 256, 16 and 16384" \
    "if it is faster by more: change _gpu_options in runtimes/vllm_engine.py" \
    "${engine[@]}" --shape "$small_06" --counts "${few[@]}" --engine-options "$options"
done

if [ "$mode" = list ]; then exit; fi
"$python" scripts/first_gpu_hour.py "$out"
