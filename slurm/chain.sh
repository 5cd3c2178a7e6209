#!/usr/bin/env bash
# Pretrain, then fine-tune, train from scratch and probe, then the report: each a job of its own. On the login node, in
# the project's folder, with the words that `python jobs/launch.py chain` takes:
#
#   bash slurm/chain.sh --name mine data.path=data/mine --nodes 2 --ranks-per-node 1
#
# Nodes and tasks are those of train.sbatch: change them there too. What a site wants besides comes from Slurm's own
# variables: export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=mine SBATCH_TIMELIMIT=12:00:00
#
# A parent that fails cancels what waits for it. The same command again goes on where the chain stopped: what is complete
# is left out, and a job whose run another one still trains waits for the end of that one.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
[[ -x $python ]] || python=python
python=${JETMAE_PYTHON:-$python}

frozen=$("$python" jobs/launch.py chain "$@" --freeze)
mapfile -t runs <<<"$frozen"

# submit RUN [JOB]: submit a run that starts after JOB has succeeded; sets `job`, to nothing if the run is complete.
submit() {
    local needs=singleton # no second job of the same name beside this one, hence none of the same run
    job=
    [[ -e $1/COMPLETED ]] && return
    [[ -n ${2-} ]] && needs+=,afterok:$2
    mkdir -p -- "$1/logs"
    job=$(sbatch --parsable --job-name="$1" --output="${1//%/%%}/logs/slurm-%j.out" --dependency="$needs" \
        --kill-on-invalid-dep=yes slurm/train.sbatch "$1")
    job=${job%%;*} # a federation adds its cluster's name
    echo "job $job trains $1" >&2
}

submit "${runs[0]}"
pretrain=$job
all=${job:+:$job}
for run in "${runs[@]:1}"; do
    case $(basename -- "$run") in
        scratch* | probe-random* | probe-observables*) submit "$run" ;;
        *) submit "$run" "$pretrain" ;;
    esac
    all+=${job:+:$job}
done

chain=$(dirname -- "${runs[0]}")
sbatch --job-name=jetmae-report --ntasks=1 --output="${chain//%/%%}/report.out" \
    ${all:+--dependency="afterok$all"} --kill-on-invalid-dep=yes \
    /dev/stdin "${runs[0]}/code" "$python" -m jetmae runs report "${runs[@]}" <<'END'
#!/usr/bin/env bash
# With the code of the chain, if it has its own and that is whole: the live one may be half edited when this runs.
if (cd -- "$1" && sha256sum --check --status SHA256SUMS) 2>/dev/null; then
    export PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
fi
shift
exec "$@"
END
