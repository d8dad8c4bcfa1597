#!/usr/bin/env bash
# Speaker heads on pretrained encoders (the question of arXiv 2402.00340): how small may a head be, and how little data
# does it need? Trains every head on every part of the data through the recipe's own run.sh, and puts all in one table
# and one curve. A recipe's run_heads.sh calls this file by path, in its own folder; given again, it goes on.
set -euo pipefail
MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"

# begin options
# What is compared:
heads="conf/train_ssl_light.yaml conf/train_ssl_xvector.yaml"  # heads on all parts of the data
ablation=                  # heads on all the data only
baseline=conf/train_ssl_xvector.yaml  # what the others are compared with
zero_shot=                 # a configuration without training, on the layer that the probe finds best (empty: none)
upstreams=                 # encoders: Hugging Face ids or folders; ./folder, ../folder or /folder where it is here
train_fraction="0.2 0.4 0.6 0.8 1"  # parts of the training data
fraction_by=utterance      # utterance (all speakers kept), speaker, or both in quotes: a series each
learning_rates=            # tried with every head on all the data, the dev EER chooses (empty: as configured)
train_args=                # more training options for every head, e.g. "--max_epoch 5"
# Where and how:
corpus=                    # where the corpus lies, as for ./run.sh
local_data_opts=           # more options of local/data.sh
run_opts=                  # more options of ./run.sh, e.g. "--ngpu 4 --nj 8"
train_set=train            # data/<train_set>: what all the data are, as for ./run.sh
fit_set=train_fit          # dump/<fit_set>: what of it is trained on; the probe takes its mean, not its labels
dev_set=train_dev          # dump/<dev_set>: its trials choose layer, checkpoint and learning rate
test_set=test              # dump/<test_set>: what the table shows
condition=all              # its trial list: all, or what follows dump/<test_set>/trials. in a file's name
score=raw                  # system of the recipe's results that the table shows
probe_args=                # more options of layer_probe
heads_tag=heads            # the result is exp/<heads_tag>
expdir=exp                 # where experiments go
seed=0                     # one seed for split, trials, training and bootstrap
# end options
. "${MAIN_ROOT}/utils/recipe.sh"

out="${expdir}/${heads_tag}"
run_sh="$(pwd)/run.sh"
name_of() { # CONFIG or ID_OR_FOLDER: a short name; the folder of a recipe's export is called hf
    local name
    name="$(basename "$1" .yaml)"
    if [ "${name}" = hf ]; then name="$(basename "$(dirname "$1")")"; fi
    echo "${name#train_}"
}
rate_of() { # CONFIG ENCODER: the learning rate that the sweep has chosen, or nothing
    local file
    file="${out}/$(tag_of "$1" "$2").lr"
    if [ -n "${learning_rates}" ] && [ "$1" != "${zero_shot}" ]; then
        require "${file}" "stage 3 (sweep)"
        cat "${file}"
    fi
}
tag_of() { # CONFIG ENCODER RATE: name of the experiment of this head on all the data
    echo "$(name_of "$1")_$(name_of "$2")${3:+_lr$3}"
}
recipe() { # OPTIONS…: the recipe's own stages
    # shellcheck disable=SC2086  # the option holds several words
    run "${run_sh}" --corpus "${corpus}" --local_data_opts "${local_data_opts}" --train_set "${train_set}" \
        --expdir "${expdir}" --seed "${seed}" ${run_opts} "$@" < /dev/null
}
one_head() { # FIRST LAST CONFIG ENCODER RATE FRACTION BY: stages FIRST to LAST of one training
    local args="--frontend_conf model=$4 ${train_args}${5:+ --optim_conf lr=$5}" probe
    if [ "$3" = "${zero_shot}" ]; then
        probe="${out}/$(tag_of probe "$4")/best_layer"
        require "${probe}" "stage 2 (probe)"
        args+=" --frontend_conf layer=$(cat "${probe}")"
    fi
    recipe --stage "$1" --stop_stage "$2" --train_config "$3" --spk_tag "$(tag_of "$3" "$4" "$5")" \
        --train_fraction "$6" --fraction_by "$7" --train_args "${args}"
}
parts() { # CONFIG: "FRACTION BY" of every training of a head, the whole data first
    local by fraction
    echo "1 utterance"
    [[ " ${heads} " = *" $1 "* ]] || return 0
    for by in ${fraction_by}; do
        for fraction in ${train_fraction}; do
            if [[ ! ${fraction} =~ ^1([.]0*)?$ ]]; then echo "${fraction} ${by}"; fi
        done
    done
}
[ -n "${upstreams}" ] || fail "no encoder; give --upstreams, for example --upstreams microsoft/wavlm-base-plus"
for encoder in ${upstreams}; do
    case "${encoder}" in
        /* | .*) require "${encoder}/config.json" "${encoder%%/exp/*}/run.sh" ;;
    esac
done

if stage 1 data "the recipe's data, dev speakers and trials"; then
    recipe --stop_stage trials
fi

if stage 2 probe "zero-shot EER of every layer; the best one serves the head without training -> ${out}/"; then
    require "dump/${dev_set}/trials" "stage 1 (data)"
    for encoder in ${upstreams}; do
        # shellcheck disable=SC2086  # the option holds several words
        run python -m espnet_ext.bin.layer_probe --model "hf:${encoder}" --data "dump/${dev_set}" \
            --mean_from "dump/${fit_set}" --out "${out}/$(tag_of probe "${encoder}")" --seed "${seed}" ${probe_args}
    done
fi

if stage 3 sweep "learning rates on all the data; the dev EER chooses -> ${out}/*.lr"; then
    for encoder in ${upstreams}; do
        for config in ${learning_rates:+${heads} ${ablation}}; do
            tried=()
            for rate in ${learning_rates}; do
                one_head train train "${config}" "${encoder}" "${rate}" 1 utterance
                tried+=("${rate}=${expdir}/spk_$(tag_of "${config}" "${encoder}" "${rate}")")
            done
            run python -m espnet_ext.bin.best_training "${tried[@]}" \
                --out "${out}/$(tag_of "${config}" "${encoder}").lr"
        done
    done
fi

if stage 4 train "every head on every part of the data, embedded and scored -> ${expdir}/"; then
    for encoder in ${upstreams}; do
        for config in ${heads} ${ablation} ${zero_shot}; do
            rate="$(rate_of "${config}" "${encoder}")"
            while read -r fraction by; do
                first=trials
                if [ "${fraction}" = 1 ]; then first=train; fi
                one_head "${first}" score "${config}" "${encoder}" "${rate}" "${fraction}" "${by}"
            done < <(parts "${config}")
        done
    done
fi

if stage 5 compare "EER, parameters, layer weights; the curve against data -> ${out}/RESULTS.md, curve.png"; then
    systems=()
    for encoder in ${upstreams}; do
        for config in ${heads} ${ablation} ${zero_shot}; do
            folder="${expdir}/spk_$(tag_of "${config}" "${encoder}" "$(rate_of "${config}" "${encoder}")")"
            while read -r fraction by; do
                part=""
                if [ "${fraction}" != 1 ]; then part="_${by}${fraction}"; fi
                systems+=(--system "$(name_of "${config}")" "$(name_of "${encoder}")" "${by}" "${fraction}"
                    "${folder}${part}")
            done < <(parts "${config}")
        done
    done
    run python -m espnet_ext.bin.compare_heads --out "${out}" "${systems[@]}" --seed "${seed}" \
        ${baseline:+--baseline "$(name_of "${baseline}")"} --set "${test_set}.${condition}" --score "${score}"
fi
