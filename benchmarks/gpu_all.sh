#!/bin/sh
# All that needs a GPU, on one GPU and without a network, in a few minutes: does the product train there, does a resumed
# run repeat every bit, how fast is a step, and which attention is the fastest for one wide head.
#
#     sh benchmarks/gpu_all.sh [WHEELS] [cuda|cpu]
#
# WHEELS is a folder of packages that the machine lacks; "" or "-" for none. For Python 3.12 with torch, timm, h5py,
# tensorboard, scikit-learn and so on, these are enough; they are made on a machine with a network, 7 MB in all:
#
#     pip wheel --no-deps -w WHEELS deepspeed==0.19.8 .
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d WHEELS hjson==3.1.0 pydantic==2.14.4 \
#         pydantic_core==2.50.5 annotated-types==0.8.0 typing-inspection==0.4.5 typing_extensions==4.16.0 \
#         submitit==1.5.4 beartype==0.23.1
#
# jetmae's own wheel among them only says which version this is: the code that runs is that of this clone.
# With `cpu` the same parts run at a small size, to try this script. LONG=1 measures more batch sizes, for longer.
# The tests of tests/gpu are apart: make test-gpu, or with the same PYTHONPATH as below python3 -m pytest tests/gpu.
# Logs are kept in $OUT if that is set. PYTHON chooses the interpreter.
set -u
cd "$(dirname "$0")/.." || exit 1
wheels=${1:--} device=${2:-cuda} python=${PYTHON:-python3}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
logs=${OUT:-$work/logs}
mkdir -p "$logs"

if [ -n "$wheels" ] && [ "$wheels" != - ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" \
        "$wheels"/*.whl >"$logs/install.log" 2>&1 || { cat "$logs/install.log"; exit 1; }
fi
PYTHONPATH=$PWD/src:$work/site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=3

began=$(date +%s)
splits=
for split in unlabelled_train unlabelled_test train validation test; do splits="$splits $split=sample/$split.h5"; done
# shellcheck disable=SC2086  # one word for each split
"$python" jobs/data.py convert $splits --out "$work/sample" >"$logs/convert.log" 2>&1 || { cat "$logs/convert.log"; exit 1; }

failed=0
part() { # NAME LIMIT_S SCRIPT WORDS...: runs one part, its output in a log
    name=$1 limit=$2 script=$3
    shift 3
    echo "$name: begins after $(($(date +%s) - began)) s"
    timeout "$limit" "$python" "benchmarks/$script" --device "$device" "$@" >"$logs/$name.log" 2>&1 || {
        echo "$name: ended with code $?"
        failed=1
    }
}
long=${LONG:+--long}
runs_s=150 step_s=120 attention_s=90 # at most; a machine with GPUs has cores enough, a shared one may have two
[ "$device" = cpu ] && runs_s=400
[ -n "$long" ] && step_s=240
# shellcheck disable=SC2086  # one word or none
{
    part runs $runs_s gpu_runs.py --data "$work/sample" --folder "$work/runs"
    part step $step_s step.py --data "$work/sample" $long
    part attention $attention_s attention.py $long
}
echo "all parts: $(($(date +%s) - began)) s"
for name in runs step attention; do
    echo
    echo "== $name =="
    tail -n 100 "$logs/$name.log"
done
exit "$failed"
