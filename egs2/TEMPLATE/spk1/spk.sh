#!/usr/bin/env bash
# Speaker verification (ESPnet-SPK, arXiv 2401.17230): a corpus in, embeddings, scores and a packed model out.
# A recipe's run.sh calls this file by path, in its own folder, and says what differs for its corpus.
set -euo pipefail
MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"

# begin options
# Data:
corpus=                    # where the corpus lies, for local/data.sh (empty: it downloads or makes it)
local_data_opts=           # more options of local/data.sh
train_set=train            # data/<train_set>: speakers to train on
dev_set=                   # data/<dev_set>: other speakers (empty: num_dev_speakers are taken out of train_set)
num_dev_speakers=8         # their trials choose the checkpoint and fit the calibration
test_sets=test             # data/<test_set>, one or more names: scored, and used for nothing else
train_fraction=1           # train on this part of everybody's utterances; a smaller part lies in a larger one
fraction_by=utterance      # speaker: on that part of the speakers instead
max_trials=20000           # at most this many trials per list that is made here
test_trials_opts=          # more options of make_trials, for test sets that bring no trials
rate_hz=16000              # sampling rate of the model
skip_broken=false          # true: drop and count broken utterances; false: name them and stop
# Model:
train_config=conf/train_ecapa.yaml  # what to train
train_args=                # more training options, e.g. "--max_epoch 5"; they win over the YAML
init_model=                # weights to start from, e.g. exp/spk_train_ecapa/valid.eer.best.pth
spk_tag=                   # name of the experiment (empty: the config's)
expdir=exp                 # where experiments go
seed=0                     # one seed for split, trials, training and bootstrap
# Evaluation:
inference_model=valid.eer.best.pth  # checkpoint in the experiment's folder
num_crops=0                # 0: embed whole utterances; 4 with crop_s=8 is ESPnet's way
crop_s=8                   # length of a crop, seconds
score=cosine               # cosine, or distance: ESPnet's distance between crops
cohort_per_speaker=0       # training utterances per speaker for AS-norm and the mean; 0: all
as_norm_top=300            # cohort speakers that AS-norm keeps
p_target=0.05              # prior of a target trial: calibration, actDCF and the packaged threshold
num_bootstrap=200          # resamplings of the speakers for the 95 % confidence intervals
hf_repo=                   # organisation/name on Hugging Face for stage upload (empty: show what would be sent)
# Jobs:
nj=2                       # parallel jobs
ngpu=0                     # GPUs per node; 0: the CPU
num_nodes=1                # nodes of a distributed training
# end options
. "${MAIN_ROOT}/utils/recipe.sh"

exp="${expdir}/spk_${spk_tag:-$(basename "${train_config}" .yaml)}"
fit_set="${train_set}" own_dev_set="${dev_set}"
if [ -z "${dev_set}" ]; then fit_set="${train_set}_fit" dev_set="${train_set}_dev"; fi
whole_set="${fit_set}"
if [[ ! ${train_fraction} =~ ^1([.]0*)?$ ]]; then
    fit_set+="_${fraction_by}${train_fraction}" exp+="_${fraction_by}${train_fraction}"
fi
cohort_set="${fit_set}_cohort"
if [ "${cohort_per_speaker}" -gt 0 ]; then cohort_set+="${cohort_per_speaker}"; fi
device=cpu embed_cmd="${train_cmd}"
if [ "${ngpu}" -gt 0 ]; then device=cuda embed_cmd="${cuda_cmd}"; fi

if stage 1 data "corpus -> data/"; then
    prepare_data
fi

if stage 2 format "look at every file, resample what needs it -> dump/"; then
    format_sets "${train_set} ${own_dev_set} ${test_sets}" --rate_hz "${rate_hz}"
fi

if stage 3 trials "dev speakers, cohort and trial lists -> dump/"; then
    require "dump/${train_set}/wav.scp" "stage 2 (format)"
    if [ -z "${own_dev_set}" ]; then
        run python -m espnet_ext.bin.split_speakers --in "dump/${train_set}" --train "dump/${whole_set}" \
            --dev "dump/${dev_set}" --num_dev_speakers "${num_dev_speakers}" --seed "${seed}"
    fi
    if [ "${fit_set}" != "${whole_set}" ]; then
        run "${MAIN_ROOT}/utils/subset_data_dir.sh" --fraction "${train_fraction}" --by "${fraction_by}" \
            --seed "${seed}" "dump/${whole_set}" "dump/${fit_set}"
    fi
    if [ "${cohort_per_speaker}" -gt 0 ]; then
        run "${MAIN_ROOT}/utils/subset_data_dir.sh" --per-spk "dump/${fit_set}" "${cohort_per_speaker}" "dump/${cohort_set}"
    else
        run python -m espnet_ext.bin.copy_data_dir "dump/${fit_set}" "dump/${cohort_set}"
    fi
    [ -s "data/${dev_set}/trials" ] || run python -m espnet_ext.bin.make_trials --data "dump/${dev_set}" \
        --out "dump/${dev_set}/trials" --max_trials "${max_trials}" --seed "${seed}"
    for name in ${test_sets}; do
        # shellcheck disable=SC2086  # the option holds several words
        compgen -G "data/${name}/trials*" > /dev/null || run python -m espnet_ext.bin.make_trials \
            --data "dump/${name}" --out "dump/${name}/trials" --max_trials "${max_trials}" --seed "${seed}" \
            ${test_trials_opts}
    done
fi

if stage 4 train "speaker classification; the dev EER chooses the checkpoint -> exp/"; then
    require "dump/${dev_set}/trials" "stage 3 (trials)"
    # shellcheck disable=SC2086  # the option holds several words
    launch "${exp}/train.log" python -m espnet_ext.bin.train spk --config "${train_config}" --output_dir "${exp}" \
        --train_dir "dump/${fit_set}" --dev_dir "dump/${dev_set}" --seed "${seed}" \
        ${init_model:+--init_param "${init_model}"} ${train_args}
fi

if stage 5 infer "one embedding per utterance -> exp/…/embeddings/"; then
    require "${exp}/${inference_model}" "stage 4 (train)"
    for name in ${dev_set} ${cohort_set} ${test_sets}; do
        out="${exp}/embeddings/${name}"
        ${embed_cmd} JOB=1:"${nj}" "${out}/log/embed.JOB.log" \
            python -m espnet_ext.bin.embed --model_file "${exp}/${inference_model}" --data "dump/${name}" \
            --out "${out}" --shard "JOB/${nj}" --num_crops "${num_crops}" --crop_s "${crop_s}" --device "${device}"
    done
    # What the table is to be compared with: no model, only MFCC statistics, standardised by those of the dev set.
    for name in ${dev_set} ${test_sets}; do
        run python -m espnet_ext.bin.embed --floor mfcc --data "dump/${name}" --out "${expdir}/mfcc/${name}"
    done
fi

if stage 6 score "EER, minDCF and Cllr; raw, AS-norm, calibrated -> exp/…/RESULTS.md"; then
    tests=() floor=("${expdir}/mfcc/${dev_set}/embedding.scp")
    for name in ${test_sets}; do
        require "${exp}/embeddings/${name}/embedding.scp" "stage 5 (infer)"
        warn_outdated "${exp}/embeddings/${name}/embedding.scp" "${exp}/${inference_model}" "stage 5 (infer)"
        compgen -G "dump/${name}/trials*" > /dev/null || fail "dump/${name}/trials is missing; stage 3 (trials) makes it"
        tests+=(--test "${name}" "${exp}/embeddings/${name}/embedding.scp" "dump/${name}"/trials*)
        floor+=("${expdir}/mfcc/${name}/embedding.scp")
    done
    run python -m espnet_ext.bin.score --out "${exp}" "${tests[@]}" --floor "MFCC statistics" "${floor[@]}" \
        --dev "${exp}/embeddings/${dev_set}/embedding.scp" "dump/${dev_set}/trials" \
        --cohort "${exp}/embeddings/${cohort_set}/embedding.scp" "dump/${cohort_set}/utt2spk" \
        --score "${score}" --top_n "${as_norm_top}" --p_target "${p_target}" --num_bootstrap "${num_bootstrap}" \
        --rate_hz "${rate_hz}" --seed "${seed}" --config "${train_config}"
fi

if stage 7 pack "config, weights, calibration and results -> exp/….zip"; then
    require "${exp}/results.json" "stage 6 (score)"
    warn_outdated "${exp}/results.json" "${exp}/${inference_model}" "--stage infer"
    run python -m espnet_ext.bin.pack --exp "${exp}" --model_file "${exp}/${inference_model}" --scores "${exp}" \
        --out "${exp}.zip"
fi

if stage 8 upload "the package -> Hugging Face; without --hf_repo a dry run"; then
    require "${exp}.zip" "stage 7 (pack)"
    run python -m espnet_ext.bin.upload --package "${exp}.zip" --repo "${hf_repo}" --card "${exp}/model_card.md"
fi
