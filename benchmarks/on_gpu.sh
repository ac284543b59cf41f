#!/usr/bin/env bash
# Everything that wants a GPU, on one that is at hand for minutes, from the root of the project:
#
#   bash benchmarks/on_gpu.sh check OUT          about 4 minutes: tests on the card, timings, one training step of every network
#   bash benchmarks/on_gpu.sh train OUT SECONDS  closed forms at 64 x 64, then all networks side by side for what is left of SECONDS
#
# OUT receives results (JSON), logs, and of training weights.tgz (for numeric/baselines/weights) and checkpoints.tgz (for --resume).
# Set PYTHON if `python` is not the environment's, WAVELET_SCORE_DATA to the folder with the four MNIST files.  What takes too long
# is stopped, and what it had finished is kept: every benchmark writes row by row, every training leaves a checkpoint.
set -u
what=${1:?check or train}; out=$(realpath -m "${2:?folder for the results}"); seconds=${3:-600}
python=${PYTHON:-python}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out/logs" "$out/results"
begin=$SECONDS
say() { echo "[$((SECONDS - begin)) s] $*"; }
bench() {  # limit log arguments...
  local limit=$1 log=$2; shift 2
  OMP_NUM_THREADS=4 timeout "$limit" "$python" -m "$@" > "$out/logs/$log.log" 2>&1
  say "$log: status $?"
}
# Name, side, images a step.
networks="4blocks_noattn:32:512 2blocks_noattn:32:512 cnn:32:512 4blocks_noattn_denser:32:512 1block_noattn:32:512
  1block_wide128_noattn:32:512 4blocks_noattn_smalllr_longtrain:32:512 4blocks_wide64_noattn:32:256
  2blocks_noattn:64:256 4blocks_noattn:64:256 cnn:64:256"
train_one() {  # network minutes limit folder
  local name side batch
  IFS=: read -r name side batch <<< "$1"
  OMP_NUM_THREADS=1 timeout -k 5 "$3" "$python" -m numeric train --config "$name" --size "$side" --device cuda \
    --schedule cpu --batch-size "$batch" --warmup 50000 --decay-after 1000000 --max-minutes "$2" --threads 1 --output "$4" \
    --resume > "$out/logs/$name-$side.log" 2>&1
  say "$name $side: status $?"
}

case $what in
  check)
    "$python" -c "import torch; print(torch.__version__, torch.cuda.get_device_name(), torch.cuda.mem_get_info())" || exit 1
    bench 90 closed-forms-32 benchmarks.gpu --part shared32 --part own --output "$out/results/gpu32.json"
    bench 60 training benchmarks.training --ways eager,captured --steps 10 --output "$out/results/training.json"
    for network in $networks; do train_one "$network" 0.03 125 "$out/one-step" & done
    bench 100 tests pytest -q -p no:cacheprovider -k cuda tests/scores/test_device.py &
    bench 115 wiener-32 benchmarks.gpu --part wiener --size 32 --settings both:5,both:3:local,both:7,pixel:3:local:2 --ridges 1e-6,1e-4,1e-3 \
      --output "$out/results/wiener32.json" &
    bench 115 refined benchmarks.refined --device cuda --output "$out/results/refined.json" --settings "experts=1,256,256; \
experts=1,1024,1024 pixels=8000000; readouts=both:5 experts=1,1024,1024 pixels=8000000; experts=1,512,512,512 pixels=8000000 side=9 dims=24" &
    bench 115 closed-forms-64 benchmarks.gpu --part shared64 --models independent:3,local:2,band:3 --output "$out/results/shared64.json"
    wait
    rm -rf "$out/one-step"
    ;;
  train)
    bench 75 closed-forms-64 benchmarks.gpu --part shared64 --models local:3,independent:3,local:2,band:3 --output "$out/results/gpu64.json"
    bench 45 wiener-64 benchmarks.gpu --part wiener --size 64 --settings pixel:3,both:3 --ridges 1e-6,1e-4 --output "$out/results/wiener64.json"
    left=$((seconds - 45 - (SECONDS - begin)))
    minutes=$("$python" -c "print(max($left - 40, 6) / 60)")
    for network in $networks; do train_one "$network" "$minutes" $((left + 30)) "$out/networks" & done
    wait
    cd "$out/networks" && tar czf "$out/weights.tgz" ./*.json ./*.safetensors && tar czf "$out/checkpoints.tgz" checkpoints
    ;;
  *) echo "unknown part $what: use check or train" >&2; exit 2 ;;
esac
tail -qn 8 "$out"/logs/*.log | tr '\r' '\n' | grep -v "img/s" | cut -c1-300
