#!/usr/bin/env bash
# Read "--name value" and "--name=value" into the variables of the option block of the script that sources this file:
#
#     # begin options
#     nj=4                     # parallel jobs
#     test_sets="dev test"     # sets to score
#     # end options
#     . "${MAIN_ROOT}/utils/parse_options.sh"
#
# The block is the help text: "--help" prints it. An option that is not in it, a word where the default is a number, or
# something other than true or false where the default is one of them, is one line on stderr and exit code 2.
# What is left of "$@" are the positional arguments.

# Files whose option blocks count: the script that runs, and those that were sourced on the way (recipe.sh adds itself).
_option_files=("${BASH_SOURCE[${#BASH_SOURCE[@]} - 1]}" ${_option_files[@]+"${_option_files[@]}"})

_option_error() {
    echo "$(basename "$0"): error: $*" >&2
    exit 2
}

# One line per option: name <tab> default <tab> what it means. A comment line of its own is a heading.
_option_table() {
    awk '
        FNR == 1 { inside = 0 }
        /^# begin options/ { inside = 1; next }
        /^# end options/ { inside = 0 }
        !inside { next }
        /^# / { print "\t\t" substr($0, 3); next }
        match($0, /^[a-zA-Z_][a-zA-Z_0-9]*=/) {
            name = substr($0, 1, RLENGTH - 1)
            rest = substr($0, RLENGTH + 1)
            if (!match(rest, /^("[^"]*"|\047[^\047]*\047|[^ \t]*)/)) next
            value = substr(rest, 1, RLENGTH)
            what = substr(rest, RLENGTH + 1)
            sub(/^[ \t]*#?[ \t]*/, "", what)
            print name "\t" value "\t" what
        }' "${_option_files[@]}"
}

_option_help() {
    echo "usage: $(basename "$0") [--option value …]"
    awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "${_option_files[0]}"
    _option_table | awk -F '\t' '
        $1 == "" { print "\n" $3; next }
        { printf "  --%-24s %s%s\n", $1, $3, ($2 == "" || $2 == "\"\"") ? "" : " (default: " $2 ")" }'
    if declare -F _stage_help > /dev/null; then _stage_help; fi
}

_option_set() {
    local name=$1 value=$2 default=${!1}
    case "${default}" in
        true | false)
            [[ ${value} = true || ${value} = false ]] || _option_error "--${name} is true or false, not '${value}'" ;;
        *)
            if [[ ${default} =~ ^-?[0-9]+$ && ! ${value} =~ ^-?[0-9]+([.][0-9]+)?([eE]-?[0-9]+)?$ ]]; then
                _option_error "--${name} takes a number, not '${value}'"
            fi ;;
    esac
    printf -v "${name}" '%s' "${value}"
}

_option_names=" $(_option_table | awk -F '\t' '$1 != "" { printf "%s ", $1 }')"
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            _option_help
            exit 0 ;;
        --)
            shift
            break ;;
        --*)
            _option=${1#--}
            _option=${_option%%=*}
            _option=${_option//-/_}
            [[ ${_option_names} = *" ${_option} "* ]] || _option_error "no option --${_option}; see $(basename "$0") --help"
            if [[ $1 = *=* ]]; then
                _option_set "${_option}" "${1#*=}"
                shift
            else
                [ $# -gt 1 ] || _option_error "--${_option} needs a value"
                _option_set "${_option}" "$2"
                shift 2
            fi ;;
        *)
            break ;;
    esac
done
unset _option _option_names
