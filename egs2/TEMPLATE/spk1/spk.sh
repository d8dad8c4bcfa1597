#!/usr/bin/env bash
# Speaker verification (ESPnet-SPK, arXiv 2401.17230): a corpus in, embeddings, scores and a packed model out.
# Call it by path from a recipe's folder; run.sh there says what differs for its corpus.
set -euo pipefail
MAIN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

# begin options
train_set=train            # data/<train_set>: training speakers; the dev speakers are taken out of it
test_sets=test             # data/<test_set>, one or more names: scored, never used to choose anything
cohort_set=                # data/<cohort_set> for AS-norm and mean subtraction (empty: the training part)
num_dev_speakers=8         # speakers kept out of training; their trials choose the checkpoint and the calibration
max_trials=20000           # at most this many dev trials (and test trials, where a test set brings none)
rate_hz=16000              # sampling rate of the model
skip_broken=false          # true: drop and count broken utterances; false: stop and list them
local_data_opts=           # passed to local/data.sh
train_config=conf/train_ecapa.yaml  # what to train
train_args=                # more training options, e.g. "--max_epoch 5"; they win over the YAML
init_model=                # weights to start from (fine-tuning), e.g. exp/spk_train_ecapa/valid.eer.best.pth
spk_tag=                   # name of the experiment (empty: from the config's name)
seed=0                     # one seed for the split, the trials, the training and the bootstrap
expdir=exp                 # where experiments go
inference_model=valid.eer.best.pth  # checkpoint to use
crops=0                    # 0: embed whole utterances; 4 with crop_s=8 is ESPnet's way
crop_s=8                   # length of a crop in seconds
as_norm_top=300            # cohort speakers used by AS-norm
p_target=0.05              # prior of the packaged threshold
num_bootstrap=200          # resamplings of the speakers for the 95 % confidence intervals
hf_repo=                   # Hugging Face repository of stage upload (empty: dry run)
nj=2                       # parallel jobs
ngpu=0                     # GPUs per node; 0 trains on the CPU
num_nodes=1                # nodes of multi-node training
# end options
. "${MAIN_ROOT}/utils/recipe.sh"

spk_tag=${spk_tag:-$(basename "${train_config}" .yaml)}
exp=${expdir}/spk_${spk_tag}
fit_set=${train_set}_fit       # what is trained on
dev_set=${train_set}_dev       # speakers that are not trained on
cohort_set=${cohort_set:-${fit_set}}
device=$([ "${ngpu}" -gt 0 ] && echo cuda || echo cpu)
embed_cmd=$([ "${ngpu}" -gt 0 ] && echo "${cuda_cmd}" || echo "${train_cmd}")

if stage 1 data "corpus -> data/"; then
    run local/data.sh ${local_data_opts}
fi

if stage 2 format "check every file, resample what needs it -> dump/"; then
    for name in ${train_set} ${test_sets}; do
        require "data/${name}/wav.scp" "stage 1 (data)"
        run python -m espnet_ext.bin.format_data --in "data/${name}" --out "dump/${name}" \
            --rate_hz "${rate_hz}" --nj "${nj}" --skip_broken "${skip_broken}"
    done
fi

if stage 3 trials "dev speakers out of the training set, dev trials"; then
    require "dump/${train_set}/wav.scp" "stage 2 (format)"
    run python -m espnet_ext.bin.split_speakers --in "dump/${train_set}" --train "dump/${fit_set}" \
        --dev "dump/${dev_set}" --num_dev_speakers "${num_dev_speakers}" --seed "${seed}"
    for name in ${dev_set} ${test_sets}; do
        if [ "${name}" = "${dev_set}" ] || [ ! -s "dump/${name}/trials" ]; then
            run python -m espnet_ext.bin.make_trials --data "dump/${name}" --out "dump/${name}/trials" \
                --max_trials "${max_trials}" --seed "${seed}"
        fi
    done
fi

if stage 4 train "speaker classification; the dev EER chooses the checkpoint -> ${exp}"; then
    require "dump/${fit_set}/utt2num_samples" "stage 3 (trials)"
    launch "${exp}" python -m espnet_ext.bin.train spk --config "${train_config}" --output_dir "${exp}" \
        --train_dir "dump/${fit_set}" --dev_dir "dump/${dev_set}" --seed "${seed}" \
        ${init_model:+--init_param "${init_model}"} ${train_args}
fi

if stage 5 infer "one embedding per utterance -> ${exp}/embeddings/"; then
    require "${exp}/${inference_model}" "stage 4 (train)"
    for name in ${dev_set} ${cohort_set} ${test_sets}; do
        out=${exp}/embeddings/${name}
        ${embed_cmd} JOB=1:"${nj}" "${out}/log/embed.JOB.log" \
            python -m espnet_ext.bin.embed --train_config "${exp}/config.yaml" \
            --model_file "${exp}/${inference_model}" --data "dump/${name}" --out "${out}" --shard "JOB/${nj}" \
            --crops "${crops}" --crop_s "${crop_s}" --device "${device}"
    done
fi
