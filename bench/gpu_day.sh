#!/bin/sh
# For the day when there is a GPU, with nobody watching; every command ends within ten minutes.
#
#   sh bench/gpu_day.sh FOLDER measure    the kernels' tests, then bench/gpu.py
#   sh bench/gpu_day.sh FOLDER more       what the first ten minutes seldom reach
#   sh bench/gpu_day.sh FOLDER train      train-bundled --preset gpu; the same command goes on with it
#
# Takes the python3 that is there: torch, triton, transformers, pytest and hypothesis are enough, no
# environment and none of the server's packages. SECONDS_IN_ALL=300 sets another end.

FOLDER=${1:?give a folder for the results}
WHAT=${2:?give measure, more or train}
mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/demos" PYTHONUNBUFFERED=1
BEGUN=$(date +%s)

left() {
    echo $((${SECONDS_IN_ALL:-570} - $(date +%s) + BEGUN))
}

bench() {
    python3 bench/gpu.py --out "$FOLDER" --minutes "$(($(left) / 60)).$(($(left) % 60 / 6))" "$@"
    MEASURED=$?
    echo "measurements ended with status $MEASURED after $(($(date +%s) - BEGUN)) s"
    return "$MEASURED"
}

measure() {
    nvidia-smi >"$FOLDER/machine.log" 2>&1
    # Fixtures and warnings are for development; without them fewer packages are needed.
    timeout 170 python3 -m pytest --noconftest -o filterwarnings=default -p no:cacheprovider \
        tests/test_triton_kernels.py tests/test_triton_shared.py tests/test_graphs_steps.py tests/test_triton_flash.py \
        >"$FOLDER/tests.log" 2>&1
    TESTED=$?
    tail -n 25 "$FOLDER/tests.log"
    echo "tests ended with status $TESTED after $(($(date +%s) - BEGUN)) s"
    bench && [ "$TESTED" = 0 ]
}

train() {
    # Asked to stop, it saves and goes on with the next command; so the last half minute is for that.
    timeout --foreground -k 25 "$(($(left) - 30))" python3 -c "
import sys
from pathlib import Path
from game_agent.training.bundled import train_bundled
train_bundled('${PRESET:-gpu}', Path(sys.argv[1]) / 'bundled')
" "$FOLDER" >>"$FOLDER/train.log" 2>&1
    TRAINED=$?
    tail -n 12 "$FOLDER/train.log"
    if [ -f "$FOLDER/bundled/README.md" ]; then
        echo "the model is whole, in $FOLDER/bundled"
    else
        echo "stopped with status $TRAINED; the same command goes on"
    fi
    return "$TRAINED"
}

case $WHAT in
measure) measure ;;
more) bench --parts tuning,qwen3-8b ;;
train) train ;;
*) echo "give measure, more or train, not $WHAT" >&2 && exit 2 ;;
esac
