#!/usr/bin/env bash
# HuBERT pre-training (arXiv 2106.07447) with any targets (arXiv 2409.10788): a corpus in, an encoder out, by iterations
# of units -> masked prediction. A recipe's run.sh calls this file by path, in its own folder.
set -euo pipefail
MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"

# begin options
# Data:
corpus=                    # where the corpus lies, for local/data.sh (empty: it downloads or makes it)
local_data_opts=           # more options of local/data.sh
train_set=train            # data/<train_set>: what to train on; no labels are needed
dev_set=                   # data/<dev_set>: chooses checkpoints (empty: num_dev_speakers are taken out of train_set)
num_dev_speakers=8         # speakers of the dev set
test_sets=                 # data/<test_set>, one or more names: units are compared with utt2phones there, probes scored
probe_set=                 # data/<probe_set>: what probes are trained on (empty: the training set)
skip_broken=false          # true: drop and count broken utterances; false: name them and stop
# Targets, one word per iteration (the last word holds for all that follow):
start_iter=1               # first iteration to run; the ones before it have been run
stop_iter=2                # last iteration
features="mfcc previous"   # mfcc, logmel, logmel:2 (two frames as one), previous (iteration), or an encoder: hf:FOLDER, …
layers="- 6"               # layers of the encoder, by commas (3,6,9: three streams); - where there are none
quantizer=kmeans           # kmeans, or random_projection (BEST-RQ)
num_units="100 500"        # units per layer; by commas, each layer its own
levels="1 1"               # levels of residual k-means per layer, or random codebooks; a stream for each
max_frames=2000000         # frames that centroids are fitted to
kmeans_opts=               # more options of fit_units
# Model:
train_config=conf/train_hubert.yaml  # what to train, one word per iteration
train_args=                # more training options, e.g. "--max_epoch 5"; they win over the YAML
warm_start=false           # true: an encoder goes on from the iteration before, with new heads; false: from scratch (paper)
ssl_tag=                   # name of the experiment (empty: the last config's)
expdir=exp                 # where experiments go
inference_model=valid.loss_m.best.pth  # checkpoint in an iteration's folder
s3prl=true                 # pack the encoder for s3prl too
rank_lists=                # more utterances that ranks are measured on: words NAME=DATA_DIR, such as another domain
num_rank_utts=10000        # dev utterances that ranks are measured on (at most)
num_probe_utts=2000        # utterances that probes are trained on, and as many they are scored on (at most)
seed=0                     # one seed for split, centroids, training and probes
# Jobs:
nj=2                       # parallel jobs
ngpu=0                     # GPUs per node; 0: the CPU
num_nodes=1                # nodes of a distributed training
# end options
. "${MAIN_ROOT}/utils/recipe.sh"

for option in features layers quantizer num_units levels train_config; do
    [ -n "${!option// /}" ] || fail "--${option} is empty; give a word per iteration, or one for all"
done
iterations="--start_iter ${start_iter} --stop_iter ${stop_iter}"
[[ "${start_iter} ${stop_iter}" =~ ^[1-9][0-9]*\ [1-9][0-9]*$ ]] || fail "${iterations}: iterations count from 1"
[ "${start_iter}" -le "${stop_iter}" ] || fail "${iterations}: nothing to run, the first is behind the last"
word() { # NUMBER WORDS: the word of that number, the last one where there are fewer
    local number=$1 words
    read -ra words <<< "$2"
    [ "${number}" -le "${#words[@]}" ] || number="${#words[@]}"
    echo "${words[number - 1]}"
}
exp="${expdir}/ssl_${ssl_tag:-$(basename "$(word 99 "${train_config}")" .yaml)}"
fit_set="${train_set}" own_dev_set="${dev_set}"
if [ -z "${dev_set}" ]; then fit_set="${train_set}_fit" dev_set="${train_set}_dev"; fi
device=cpu units_cmd="${train_cmd}"
if [ "${ngpu}" -gt 0 ]; then device=cuda units_cmd="${cuda_cmd}"; fi
other_targets="name another --ssl_tag, or begin at stage 4 (clusters)"

targets() { # ITERATION: what its units are made from -> from, which
    from="$(word "$1" "${features}")" which="$(word "$1" "${layers}")"
    if [ "${from}" = previous ]; then
        [ "$1" -gt 1 ] || fail "--features: iteration 1 has no previous one; give mfcc, logmel or an encoder"
        from="${exp}/it$(($1 - 1))/hf"
        require "${from}/model.safetensors" "stage 6 (train) of iteration $(($1 - 1))"
    fi
    if [ "${which}" = - ]; then which=; fi
}
keep_settings() { # ITERATION FILE MEND: once FILE is there, other targets are refused, not mixed in
    local from which encoder=() other=()
    targets "$1"
    # Not among the settings where it is k-means: experiments from before there was a choice go on.
    if [ "$(word "$1" "${quantizer}")" != kmeans ]; then other=(quantizer="$(word "$1" "${quantizer}")"); fi
    if [ -s "${from#hf:}/model.safetensors" ]; then encoder=(--content encoder="${from#hf:}/model.safetensors"); fi
    run python -m espnet_ext.bin.keep_settings --file "${exp}/it$1/settings.json" --bind "$2" --mend "$3" \
        features="${from}" layers="${which}" num_units="$(word "$1" "${num_units}")" \
        levels="$(word "$1" "${levels}")" max_frames="${max_frames}" kmeans_opts="${kmeans_opts}" seed="${seed}" \
        ${other[@]+"${other[@]}"} --content train_set="dump/${fit_set}/wav.scp" --content dev_set="dump/${dev_set}/wav.scp" \
        ${encoder[@]+"${encoder[@]}"}
}

# What a later iteration would be refused for, before the first is trained.
if [ "${start_iter}" -lt "${stop_iter}" ] && will_run 6; then
    plan=()
    for ((iter = start_iter; iter <= stop_iter; iter++)); do
        plan+=(--iteration "${iter}")
        for option in train_config features layers quantizer num_units levels; do
            plan+=("${option}=$(word "${iter}" "${!option}")")
        done
    done
    run python -m espnet_ext.bin.check_iterations --exp "${exp}" --max_frames "${max_frames}" \
        --warm_start "${warm_start}" --train_args="${train_args}" "${plan[@]}"
fi

if stage 1 data "corpus -> data/"; then
    prepare_data
fi

if stage 2 format "look at every file, resample what needs it -> dump/"; then
    format_sets "${train_set} ${own_dev_set} ${probe_set} ${test_sets}"
fi

if stage 3 split "dev speakers -> dump/"; then
    require "dump/${train_set}/wav.scp" "stage 2 (format)"
    if [ -z "${own_dev_set}" ]; then
        run python -m espnet_ext.bin.split_speakers --in "dump/${train_set}" --train "dump/${fit_set}" \
            --dev "dump/${dev_set}" --num_dev_speakers "${num_dev_speakers}" --seed "${seed}" --trials false
    fi
fi

if will_run 6 && { will_run 8 || will_run 9; }; then
    for list in ${rank_lists}; do
        [ -s "${list#*=}/wav.scp" ] || fail "--rank_lists ${list}: there is no data directory ${list#*=}"
    done
fi

for ((iter = start_iter; iter <= stop_iter; iter++)); do
    it="${exp}/it${iter}" last="${exp}/it$((iter - 1))/hf"
    if [ "${iter}" -gt "${start_iter}" ]; then
        begin_again 4 6 # --stage train goes on with the next one's clusters
        if stops_in 4 5 && [ "$(word "${iter}" "${features}")" = previous ] && [ ! -s "${last}/model.safetensors" ]; then
            log "iteration ${iter} needs ${last}, which stage 6 (train) makes; this is all that --stop_stage leaves to do"
            break
        fi
    fi
    if ! stops_in 1 3; then log "-- iteration ${iter} of ${stop_iter}"; fi
    if stage 4 clusters "every iteration: features -> centroids -> exp/…/it*/centroids"; then
        for name in "${fit_set}" "${dev_set}"; do require "dump/${name}/wav.scp" "stage 3 (split)"; done
        keep_settings "${iter}" "${it}/model/checkpoint.pth" "name another --ssl_tag"
        targets "${iter}"
        units="$(word "${iter}" "${num_units}")"
        # shellcheck disable=SC2086  # the options hold several words
        run python -m espnet_ext.bin.fit_units --data "dump/${fit_set}" --features "${from}" --layers ${which//,/ } \
            --quantizer "$(word "${iter}" "${quantizer}")" --num_units ${units//,/ } \
            --levels "$(word "${iter}" "${levels}")" --max_frames "${max_frames}" --seed "${seed}" \
            --device "${device}" --out "${it}/centroids" ${kmeans_opts}
    fi

    if stage 5 labels "every iteration: units, in one pass over the audio -> exp/…/it*/units"; then
        require "${it}/centroids/quantizer.json" "stage 4 (clusters)"
        keep_settings "${iter}" "${it}/centroids/quantizer.json" "${other_targets}"
        for name in ${fit_set} ${dev_set} ${test_sets}; do
            ${units_cmd} JOB=1:"${nj}" "${it}/units/${name}/log/units.JOB.log" \
                python -m espnet_ext.bin.make_units --centroids "${it}/centroids" --data "dump/${name}" \
                --out "${it}/units/${name}" --shard "JOB/${nj}" --skip_broken "${skip_broken}" --device "${device}"
        done
    fi

    if stage 6 train "every iteration: masked prediction -> exp/…/it*/model, exp/…/it*/hf"; then
        require "${it}/units/${dev_set}/units.scp" "stage 5 (labels)"
        keep_settings "${iter}" "${it}/centroids/quantizer.json" "${other_targets}"
        config="$(word "${iter}" "${train_config}")" warm=()
        if "${warm_start}" && [ "${iter}" -gt 1 ]; then
            before="${exp}/it$((iter - 1))/model/${inference_model}"
            require "${before}" "stage 6 (train) of iteration $((iter - 1)) (--warm_start true)"
            warm=(--init_param "${before}:encoder:encoder")
        fi
        # shellcheck disable=SC2086  # the option holds several words
        launch "${it}/model/train.log" python -m espnet_ext.bin.train ssl --config "${config}" \
            --output_dir "${it}/model" --train_dir "dump/${fit_set}" --train_units "${it}/units/${fit_set}" \
            --dev_dir "dump/${dev_set}" --dev_units "${it}/units/${dev_set}" --seed "${seed}" \
            ${warm[@]+"${warm[@]}"} ${train_args}
        run python -m espnet_ext.bin.export_ssl --exp "${it}/model" --model_file "${inference_model}" --out "${it}/hf"
    fi
done

if stage 7 score "units against phones; probes of the last encoder -> exp/…/units_*, exp/…/it*/probe_*"; then
    for name in ${test_sets}; do
        rows=()
        for ((iter = 1; iter <= stop_iter; iter++)); do
            # An experiment may start from another one's encoder, with no first iteration of its own.
            if [ "${iter}" -lt "${start_iter}" ] && [ ! -d "${exp}/it${iter}" ]; then continue; fi
            require "${exp}/it${iter}/units/${name}/units.scp" "stage 5 (labels)"
            rows+=(--units "iteration ${iter}" "${exp}/it${iter}/units/${name}")
        done
        if [ -s "dump/${name}/utt2phones" ]; then
            run python -m espnet_ext.bin.score_units --data "dump/${name}" "${rows[@]}" --out "${exp}/units_${name}" \
                --seed "${seed}" --config "$(word 99 "${train_config}")"
        else
            log "dump/${name} has no utt2phones (doc/data_formats.md): its units are not compared with phones"
        fi
        it="${exp}/it${stop_iter}"
        if [ -e "${it}/model/${inference_model}" ]; then
            run python -m espnet_ext.bin.ssl_probe --exp "${it}/model" --model_file "${inference_model}" \
                --dev_units "${it}/units/${dev_set}" --train "dump/${probe_set:-${fit_set}}" --dev "dump/${dev_set}" \
                --test "dump/${name}" --num_train "${num_probe_utts}" --num_test "${num_probe_utts}" --seed "${seed}" \
                --device "${device}" --skip_broken "${skip_broken}" --cache "${expdir}/floors" --out "${it}/probe_${name}"
        fi
    done
fi

if stage 8 rank "label-free rank of every layer of every checkpoint -> exp/…/it*/rank"; then
    for ((iter = start_iter; iter <= stop_iter; iter++)); do
        require "${exp}/it${iter}/model/${inference_model}" "stage 6 (train)"
        # shellcheck disable=SC2086  # the option holds several words
        run python -m espnet_ext.bin.rank --checkpoints "${exp}/it${iter}/model" --data "dev=dump/${dev_set}" \
            ${rank_lists} --num_utterances "${num_rank_utts}" --seed "${seed}" --device "${device}" \
            --skip_broken "${skip_broken}" --out "${exp}/it${iter}/rank"
    done
fi

if stage 9 probe "frozen linear probes against rank, last iteration -> exp/…/it*/study"; then
    for name in ${test_sets}; do
        require "dump/${probe_set:-${fit_set}}/wav.scp" "stage 3 (split)"
        # shellcheck disable=SC2086  # the option holds several words
        run python -m espnet_ext.bin.rank_study --checkpoints "${exp}/it${stop_iter}/model" \
            --data "dev=dump/${dev_set}" ${rank_lists} --train "dump/${probe_set:-${fit_set}}" --test "dump/${name}" \
            --num_utterances "${num_rank_utts}" --num_train "${num_probe_utts}" --num_test "${num_probe_utts}" \
            --seed "${seed}" --device "${device}" --skip_broken "${skip_broken}" \
            --out "${exp}/it${stop_iter}/study_${name}"
    done
fi

if stage 10 pack "the last encoder as a Hugging Face HubertModel -> exp/…/hf, and for s3prl -> exp/…/s3prl.pt"; then
    require "${exp}/it${stop_iter}/model/${inference_model}" "stage 6 (train)"
    more=()
    if "${s3prl}"; then more=(--s3prl "${exp}/s3prl.pt"); fi
    run python -m espnet_ext.bin.export_ssl --exp "${exp}/it${stop_iter}/model" --model_file "${inference_model}" \
        --out "${exp}/hf" ${more[@]+"${more[@]}"}
fi
