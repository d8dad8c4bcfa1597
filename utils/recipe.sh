#!/usr/bin/env bash
# The stage library. A template sources it after its option block and is then a list of stages:
#
#     set -euo pipefail
#     MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
#     # begin options
#     nj=4     # parallel jobs
#     # end options
#     . "${MAIN_ROOT}/utils/recipe.sh"
#
#     if stage 1 data "corpus -> data/"; then
#         run local/data.sh                                        # shown, and logged to ${log_dir}/data.log
#     fi
#     if stage 2 format "data/ -> dump/"; then
#         require data/train/wav.scp "stage 1 (data)"              # stops with one line where the file is missing
#         ${train_cmd} JOB=1:${nj} "${log_dir}/format.JOB.log" python -m … --shard JOB/${nj}
#     fi
#
# run.sh changes to its own folder and calls the template by path; all paths are relative to that folder. `python` is the
# environment's. At the end, or when a command fails, the wall time of every stage is shown and kept in ${stage_times}.

set -Eeuo pipefail
MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export MAIN_ROOT

# begin options
# Every recipe:
stage=first                        # first stage to run, by number or name
stop_stage=last                    # last stage to run, by number or name
skip_stages=""                     # stages to leave out, by number or name, for example "2 score"
dry_run=false                      # true: only say which stages would run
cmd_backend=local                  # where jobs run: local or slurm (doc/running_on_a_cluster.md)
train_cmd=""                       # the job command instead of the backend's, for example "slurm.py --mem 8G"
cuda_cmd=""                        # the same for jobs that need a GPU
log_dir=exp/log                    # what the commands of a stage print, one file per stage
stage_times=exp/stage_times.tsv    # wall time of every stage that ran: date, stage, name, seconds, done or failed
# end options

_recipe_script="${BASH_SOURCE[${#BASH_SOURCE[@]} - 1]}"
_recipe_name="$(basename "${_recipe_script}")"
_recipe_stages="$(sed -nE 's/^ *if stage ([0-9]+) ([A-Za-z0-9_]+) "([^"]*)"; then.*/\1 \2 \3/p' "${_recipe_script}")"
# The stage that runs (empty between stages), the command and the log to name when it fails, the rows of the final table.
_recipe_now="" _recipe_number="" _recipe_command="" _recipe_log="" _recipe_told=false _recipe_table=""

_stage_help() {
    [ -z "${_recipe_stages}" ] || printf '\nStages:\n%s\n' "$(awk '{ n = $1; m = $2; sub(/^[^ ]+ [^ ]+ /, "")
        printf "  %2d %-12s %s\n", n, m, $0 }' <<< "${_recipe_stages}")"
}
log() { echo "$(date '+%F %T') (${_recipe_name}) $*" >&2; }
fail() { # MESSAGE: one line, exit code 2
    _recipe_told=true
    echo "${_recipe_name}: error: $*" >&2
    exit 2
}
require() { # PATH WHO: stop unless the file has content or the folder exists
    [ -d "$1" ] || [ -s "$1" ] || fail "$1 is missing or empty; $2 makes it"
}
warn_outdated() { # PATH SOURCE WHO: a word where PATH is older than what it was made from
    if [ "$2" -nt "$1" ]; then log "warning: $1 is older than $2; $3 makes it anew"; fi
}
run() { # COMMAND…: show it, run it, keep what it prints in the stage's log
    local status=0 file="${log_dir}/${_recipe_now:-recipe}.log" guard=()
    if [ "$(type -t "$1")" = file ]; then guard=(${_environment_guard[@]+"${_environment_guard[@]}"}); fi
    _recipe_log="${file}"
    _recipe_command="$(quote "$@")"
    mkdir -p "${log_dir}"
    log "${_recipe_command}" 2>&1 | tee -a "${file}" >&2
    ${guard[@]+"${guard[@]}"} "$@" 2>&1 | tee -ia "${file}" || status=$?
    [ "${status}" -ne 0 ] || _recipe_command=""
    return "${status}"
}
launch() { # LOG COMMAND…: a training on ${ngpu} GPUs; on Slurm, ${num_nodes} nodes meet through ESPnet's launcher
    local file=$1 distributed=false gpus="${ngpu:-0}" nodes="${num_nodes:-1}"
    shift
    if [ "${gpus}" -gt 1 ] || [ "${nodes}" -gt 1 ]; then distributed=true; fi
    set -- "$@" --multiprocessing_distributed "${distributed}"
    if [ "${cmd_backend}" = slurm ]; then
        _recipe_log="${file}"
        run python -m espnet2.bin.launch --cmd "${launch_cmd}" --log "${file}" --ngpu "${gpus}" \
            --num_nodes "${nodes}" --init_file_prefix "$(dirname "${file}")/.dist_init_" -- "$@"
    elif [ "${nodes}" -gt 1 ]; then
        fail "--num_nodes ${nodes}: several nodes need --cmd_backend slurm (doc/running_on_a_cluster.md)"
    else
        run "$@" --ngpu "${gpus}"
    fi
}
prepare_data() { # the corpus -> data/, by the one script that a new corpus writes
    # shellcheck disable=SC2086  # the option holds several words
    run local/data.sh ${corpus:+--corpus "${corpus}"} ${local_data_opts:-}
}
format_sets() { # NAMES OPTIONS…: data/<name> -> dump/<name> for each of the NAMES, which are one argument
    local name
    for name in $1; do
        require "data/${name}/wav.scp" "stage 1 (data)"
        run python -m espnet_ext.bin.format_data --in "data/${name}" --out "dump/${name}" --nj "${nj:-1}" \
            --skip_broken "${skip_broken:-false}" "${@:2}"
    done
}
stage() { # NUMBER NAME DESCRIPTION: true when this stage is to be run
    _stage_close "done"
    if ! _stage_chosen "$1"; then
        return 1
    elif "${dry_run}"; then
        echo "would run stage $1 $2: $3"
        return 1
    fi
    _recipe_number=$1 _recipe_now=$2 _recipe_command="" _recipe_log="" _recipe_start="$(date +%s%3N)"
    log "== stage $1 $2: $3 =="
}
will_run() { # NUMBER: true where that stage is among those that this call runs
    ! "${dry_run}" && _stage_chosen "$1"
}
_stage_chosen() { # NUMBER: by --stage, --stop_stage and --skip_stages
    [ "$1" -ge "${_recipe_first}" ] && [ "$1" -le "${_recipe_last}" ] && [[ ${_recipe_skip} != *" $1 "* ]]
}
begin_again() { # FIRST LAST: in a loop over these stages, FIRST comes next even where --stage began behind it
    if [ "${_recipe_first}" -gt "$1" ] && [ "${_recipe_first}" -le "$2" ]; then _recipe_first=$1; fi
}
stops_in() { # FIRST LAST: true where --stop_stage is one of these
    [ "${_recipe_last}" -ge "$1" ] && [ "${_recipe_last}" -le "$2" ]
}
_stage_close() { # STATUS: note the wall time of the stage that was running
    [ -n "${_recipe_now}" ] || return 0
    local ms=$(($(date +%s%3N) - _recipe_start)) seconds row
    seconds="$((ms / 1000)).$((ms % 1000 / 100))"
    printf -v row '  %2d %-12s %8s s  %s\n' "${_recipe_number}" "${_recipe_now}" "${seconds}" "$1"
    mkdir -p "$(dirname "${stage_times}")"
    printf '%s\t%s\t%s\t%s\t%s\n' \
        "$(date '+%FT%T')" "${_recipe_number}" "${_recipe_now}" "${seconds}" "$1" >> "${stage_times}"
    _recipe_table+="${row}" _recipe_now=""
}
_recipe_end() {
    local status=$? where="before the first stage"
    trap - ERR EXIT
    if [ -n "${_recipe_now}" ]; then where="in stage ${_recipe_number} ${_recipe_now}"; fi
    if [ "${status}" -eq 0 ]; then _stage_close "done"; else _stage_close failed; fi || true # the disk may be full
    if [ -n "${_recipe_table}" ]; then
        printf 'wall time per stage, also in %s\n%s' "${stage_times}" "${_recipe_table}" >&2
    fi
    case "${status} ${_recipe_told}" in
        "0 "* | *" true") ;;
        129* | 130* | 143*) echo "${_recipe_name}: interrupted ${where}; the same command goes on from what is finished" >&2 ;;
        *)
            if [ "${status}" -eq 137 ]; then
                echo "${_recipe_name}: its command was killed (out of memory?);" \
                    "the same command goes on from what is finished" >&2
            fi
            echo "${_recipe_name}: failed ${where} with exit code ${status}: ${_recipe_command:-exit}" >&2
            if [ -n "${_recipe_log}" ]; then echo "${_recipe_name}: what the stage printed: ${_recipe_log}" >&2; fi ;;
    esac
}
_stage_number() { # OPTION VALUE: the number of a stage given by number or name
    local number
    if [[ $2 =~ ^-?[0-9]+$ ]]; then echo "$2" && return; fi
    number="$(awk -v name="$2" '$2 == name { print $1 }' <<< "${_recipe_stages}")"
    [ -n "${number}" ] || fail "--$1: no stage '$2'; there are:" \
        "$(awk '{ printf "%s%s %s", s, $1, $2; s = ", " }' <<< "${_recipe_stages}")"
    echo "${number}"
}

_recipe_arguments=("$0" "$@")
_option_files=("${BASH_SOURCE[0]}")
# shellcheck source=utils/parse_options.sh
. "${MAIN_ROOT}/utils/parse_options.sh"
[ $# -eq 0 ] || fail "does not take '$1'; options begin with --, see ${_recipe_name} --help"

_recipe_first="$(awk 'NR == 1 { print $1 }' <<< "${_recipe_stages}")"
_recipe_last="$(awk 'END { print $1 }' <<< "${_recipe_stages}")"
if [ -n "${_recipe_stages}" ]; then
    if [ "${stage}" != first ]; then _recipe_first="$(_stage_number stage "${stage}")"; fi
    if [ "${stop_stage}" != last ]; then _recipe_last="$(_stage_number stop_stage "${stop_stage}")"; fi
    _recipe_skip=" "
    for _stage in ${skip_stages}; do _recipe_skip+="$(_stage_number skip_stages "${_stage}") "; done
    awk -v a="${_recipe_first}" -v b="${_recipe_last}" -v skip="${_recipe_skip}" \
        '$1 >= a && $1 <= b && !index(skip, " " $1 " ") { some = 1 } END { exit !some }' <<< "${_recipe_stages}" \
        || fail "no stage is left to run with --stage ${stage} --stop_stage ${stop_stage} --skip_stages '${skip_stages}'"
fi

# shellcheck source=utils/environment.sh
. "${MAIN_ROOT}/utils/environment.sh"

trap '_recipe_command="${_recipe_command:-${BASH_COMMAND}}"' ERR
trap _recipe_end EXIT
# Without these the EXIT trap would see the status of the last command that ended well.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
log "$(quote "${_recipe_arguments[@]}")"
