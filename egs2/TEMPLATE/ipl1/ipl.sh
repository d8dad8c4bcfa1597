#!/usr/bin/env bash
# Speakers without labels (Speaker-IPL, arXiv 2409.10791): cluster embeddings, train a student on the clusters, repeat.
# A recipe's run.sh calls this file by path, in its own folder, and says what differs for its corpus.
set -euo pipefail
MAIN_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"

# begin options
# Data:
corpus=                    # where the corpus lies, for local/data.sh (empty: it downloads or makes it)
local_data_opts=           # more options of local/data.sh
train_set=train            # data/<train_set>: unlabelled speech; its utt2spk, if any, is read by oracle columns alone
test_sets=test             # data/<test_set>, one or more names: labelled, other speakers; only reported on
max_trials=20000           # at most this many trials per list that is made here
test_trials_opts=          # more options of make_trials, for test sets that bring no trials
rate_hz=16000              # sampling rate of the model
skip_broken=false          # true: drop and count broken utterances; false: name them and stop
# Start:
init=ivector               # ivector, upstream (an encoder, zero-shot), model (a trained one), or mfcc (statistics)
num_gaussians=64           # i-vector: components of the UBM
ubm_args=                  # i-vector: more options of train_ubm
ivector_dim=50             # i-vector: its size
ivector_iterations=10      # i-vector: EM iterations of the total-variability matrix
ivector_args=              # i-vector: more options of train_ivector_extractor
ivector_tag=               # i-vector: name of UBM and extractor (empty: their sizes); experiments on one set share them
init_model=                # model: experiment folder, package or tag on Hugging Face
upstream=                  # upstream: for example hf:microsoft/wavlm-base-plus
upstream_layer=            # upstream: its layer; 0 is the input of the first one
# Rounds:
method=kmeans_ahc          # kmeans, ahc, kmeans_ahc, spectral or hdbscan
num_clusters=40            # pseudo-speakers; hdbscan finds their number itself
cluster_candidates=        # in place of num_clusters, for example "20 40 80": the one on which seeds agree best
num_kmeans=200             # k-means centroids that ahc, spectral and hdbscan then work on; 0: on the embeddings
cluster_args=              # more options of cluster
min_utterances=5           # smaller clusters are dropped
piece_s=0                  # a long utterance counts, and is trained on, once per so many seconds; 0: once
max_rounds=5               # most rounds
tolerance=0.005            # stop from round 3 on, when the agreement of successive labels changed by less
train_config=conf/train_ecapa.yaml  # what to train in a round
train_args=                # more training options, e.g. "--max_epoch 5"; they win over the YAML
warm_start=false           # true: a student goes on from the one before, with a new head; false: from scratch (paper)
finetune_config=           # large-margin fine-tuning of the last student (empty: none)
finetune_args=             # more training options of the fine-tuning
num_dev_utterances=200     # pseudo-labelled utterances that are held out to validate on
inference_model=latest.pth # checkpoint of a round: the last, or valid.eer.best.pth by the pseudo-trials
ipl_tag=                   # name of the experiment (empty: start and config)
expdir=exp                 # where experiments go
seed=0                     # one seed for clusters, trials, training and bootstrap
# Evaluation:
as_norm_top=300            # cohort pseudo-speakers that AS-norm keeps
num_bootstrap=200          # resamplings of the speakers for the 95 % confidence intervals
# Jobs:
nj=2                       # parallel jobs
ngpu=0                     # GPUs per node; 0: the CPU
num_nodes=1                # nodes of a distributed training
# end options
. "${MAIN_ROOT}/utils/recipe.sh"

exp="${expdir}/ipl_${ipl_tag:-${init}_$(basename "${train_config}" .yaml)}"
fit_set="${train_set}_unlabelled"
ivector_tag="${ivector_tag:-${num_gaussians}_${ivector_dim}}"
device=cpu embed_cmd="${train_cmd}" processes="${nj}"
if [ "${ngpu}" -gt 0 ]; then device=cuda embed_cmd="${cuda_cmd}" processes=1; fi

keep_settings() { # one folder, one experiment: another setting is refused, not mixed in
    run python -m espnet_ext.bin.keep_settings --file "${exp}/settings.json" \
        --bind "${exp}/r1/model/checkpoint.pth" --mend "name another --ipl_tag" \
        init="${init}" ivector="${ivector_tag} ${ubm_args} ${ivector_args}" init_model="${init_model}" \
        upstream="${upstream} ${upstream_layer}" method="${method}" \
        num_clusters="${cluster_candidates:-${num_clusters}}" num_kmeans="${num_kmeans}" \
        cluster_args="${cluster_args}" min_utterances="${min_utterances}" \
        piece_s="${piece_s}" warm_start="${warm_start}" tolerance="${tolerance}" train_args="${train_args}" \
        num_dev_utterances="${num_dev_utterances}" inference_model="${inference_model}" seed="${seed}" \
        --content train_config="${train_config}" --content data="dump/${fit_set}/wav.scp"
}
embed() { # FOLDER OPTIONS…: every utterance of every set -> FOLDER/embeddings
    local name out
    for name in ${fit_set} ${test_sets}; do
        out="$1/embeddings/${name}"
        ${embed_cmd} JOB=1:"${nj}" "${out}/log/embed.JOB.log" python -m espnet_ext.bin.embed "${@:2}" \
            --data "dump/${name}" --out "${out}" --shard "JOB/${nj}" --device "${device}"
    done
}
train() { # FOLDER LABELS OPTIONS…: a student on the pseudo-labels of round LABELS -> FOLDER/model
    launch "$1/model/train.log" python -m espnet_ext.bin.train spk --output_dir "$1/model" --train_dir "$2/train" \
        --dev_dir "$2/dev" --seed "${seed}" "${@:3}"
}
report() { # the table of all rounds so far; true speakers are read here, and nothing reads the report
    local name tests=() floor=("${expdir}/mfcc/${fit_set}/embedding.scp") known=()
    for name in ${test_sets}; do
        tests+=(--test "${name}" "dump/${name}"/trials*)
        floor+=("${expdir}/mfcc/${name}/embedding.scp")
    done
    [ ! -s "data/${train_set}/utt2spk" ] || known=(--speakers "data/${train_set}/utt2spk")
    run python -m espnet_ext.bin.ipl_report --exp "${exp}" --train "${fit_set}" "${tests[@]}" \
        ${known[@]+"${known[@]}"} --floor "MFCC statistics" "${floor[@]}" --num_bootstrap "${num_bootstrap}" \
        --seed "${seed}" --rate_hz "${rate_hz}" --config "${train_config}" --info "start=${init}"
}
last_round() { # the folder of the last round that has a report
    local round=0
    while [ -s "${exp}/r$((round + 1))/report.json" ]; do round=$((round + 1)); done
    echo "${exp}/r${round}"
}

if stage 1 data "corpus -> data/"; then
    prepare_data
fi

if stage 2 format "hide the speakers of the training set, look at every file -> dump/"; then
    require "data/${train_set}/wav.scp" "stage 1 (data)"
    run python -m espnet_ext.bin.hide_labels --in "data/${train_set}" --out "data/${fit_set}"
    format_sets "${fit_set} ${test_sets}" --rate_hz "${rate_hz}"
fi

if stage 3 trials "trial lists of the test sets, and MFCC statistics to compare with -> dump/"; then
    for name in ${test_sets}; do
        require "dump/${name}/wav.scp" "stage 2 (format)"
        # shellcheck disable=SC2086  # the option holds several words
        compgen -G "data/${name}/trials*" > /dev/null || run python -m espnet_ext.bin.make_trials \
            --data "dump/${name}" --out "dump/${name}/trials" --max_trials "${max_trials}" --seed "${seed}" \
            ${test_trials_opts}
    done
    for name in ${fit_set} ${test_sets}; do
        run python -m espnet_ext.bin.embed --floor mfcc --data "dump/${name}" --out "${expdir}/mfcc/${name}"
    done
fi

if stage 4 init "round 0: embeddings that need no label -> exp/…/r0"; then
    for name in ${test_sets}; do
        compgen -G "dump/${name}/trials*" > /dev/null || fail "dump/${name}/trials is missing; run stage 3 (trials)"
    done
    keep_settings
    case "${init}" in
        ivector)
            extractor="${expdir}/ivector_${ivector_tag}_s${seed}"
            # What another training set makes has another name; other settings of the same set need another tag.
            [ "${train_set}" = train ] || extractor="${expdir}/ivector_${train_set}_${ivector_tag}_s${seed}"
            run python -m espnet_ext.bin.keep_settings --file "${extractor}/settings.json" \
                --bind "${extractor}/ivector.npz" --mend "name another --ivector_tag" ubm_args="${ubm_args}" \
                num_gaussians="${num_gaussians}" ivector_dim="${ivector_dim}" ivector_args="${ivector_args}" \
                ivector_iterations="${ivector_iterations}" --content data="dump/${fit_set}/wav.scp"
            # shellcheck disable=SC2086  # the options hold several words
            run python -m espnet_ext.bin.train_ubm --data "dump/${fit_set}" --out "${extractor}/ubm" \
                --num_gaussians "${num_gaussians}" --seed "${seed}" --nj "${processes}" --device "${device}" ${ubm_args}
            # shellcheck disable=SC2086
            run python -m espnet_ext.bin.train_ivector_extractor --data "dump/${fit_set}" --ubm "${extractor}/ubm" \
                --out "${extractor}" --dim "${ivector_dim}" --iterations "${ivector_iterations}" --seed "${seed}" \
                --nj "${processes}" --device "${device}" ${ivector_args}
            for name in ${fit_set} ${test_sets}; do
                out="${exp}/r0/embeddings/${name}"
                ${embed_cmd} JOB=1:"${nj}" "${out}/log/embed.JOB.log" python -m espnet_ext.bin.extract_ivectors \
                    --data "dump/${name}" --extractor "${extractor}" --out "${out}" --shard "JOB/${nj}" \
                    --device "${device}"
            done ;;
        mfcc) embed "${exp}/r0" --floor mfcc ;;
        model)
            [ -n "${init_model}" ] || fail "--init model needs --init_model, a folder, package or tag"
            embed "${exp}/r0" --model "${init_model}" ;;
        upstream)
            [ -n "${upstream}" ] || fail "--init upstream needs --upstream, for example hf:microsoft/wavlm-base-plus"
            embed "${exp}/r0" --upstream "${upstream}" ${upstream_layer:+--layer "${upstream_layer}"} ;;
        *) fail "--init is ivector, upstream, model or mfcc, not '${init}'" ;;
    esac
    report
fi

if stage 5 loop "cluster, train a student on the clusters, embed; again until they settle -> exp/…/r1, r2, …"; then
    require "${exp}/r0/embeddings/${fit_set}/embedding.scp" "stage 4 (init)"
    keep_settings
    for ((round = 1; round <= max_rounds; round++)); do
        before="${exp}/r$((round - 1))" now="${exp}/r${round}" warm=()
        if [ ! -s "${now}/report.json" ]; then
            log "-- round ${round} of at most ${max_rounds} --"
            embeddings="${before}/embeddings/${fit_set}/embedding.scp" clusters="${num_clusters}"
            if [ "${method}" = hdbscan ]; then clusters=; fi # it finds their number
            if [ -n "${cluster_candidates}" ]; then
                # shellcheck disable=SC2086  # the options hold several words
                run python -m espnet_ext.bin.choose_clusters --embeddings "${embeddings}" \
                    --candidates ${cluster_candidates} --method "${method}" --num_kmeans "${num_kmeans}" \
                    --device "${device}" --out "${now}/num_clusters"
                clusters="$(cat "${now}/num_clusters")"
            fi
            # shellcheck disable=SC2086
            run python -m espnet_ext.bin.cluster --embeddings "${embeddings}" --out "${now}/clusters" \
                --method "${method}" ${clusters:+--num_clusters "${clusters}"} --num_kmeans "${num_kmeans}" --metric cosine \
                --seed "${seed}" --device "${device}" ${cluster_args}
            run python -m espnet_ext.bin.pseudo_label --data "dump/${fit_set}" \
                --clusters "${now}/clusters/utt2cluster" --previous "${before}" --out "${now}" \
                --min_utterances "${min_utterances}" --piece_s "${piece_s}" --rate_hz "${rate_hz}" \
                --num_dev_utterances "${num_dev_utterances}" --tolerance "${tolerance}" --seed "${seed}"
            if "${warm_start}" && [ "${round}" -gt 1 ]; then
                # All but the head: as many clusters are still other clusters.
                warm=(--init_param "${before}/model/${inference_model}:::loss")
            fi
            # shellcheck disable=SC2086
            train "${now}" "${now}" --config "${train_config}" ${warm[@]+"${warm[@]}"} ${train_args}
            embed "${now}" --model_file "${now}/model/${inference_model}"
            report
        fi
        if grep -q '"stop": true' "${now}/labels.json"; then break; fi
    done
fi

if stage 6 finetune "with --finetune_config: the last student goes on, large margin -> exp/…/finetune"; then
    if [ -n "${finetune_config}" ]; then
        require "${exp}/r1/report.json" "stage 5 (loop)"
        last="$(last_round)"
        # shellcheck disable=SC2086  # the option holds several words
        train "${last}/finetune" "${last}" --config "${finetune_config}" \
            --init_param "${last}/model/${inference_model}" ${finetune_args}
        embed "${last}/finetune" --model_file "${last}/finetune/model/${inference_model}"
        report
    fi
fi

if stage 7 score "the last model: raw, and AS-norm with pseudo-speakers -> exp/…/score"; then
    require "${exp}/r1/report.json" "stage 5 (loop)"
    last="$(last_round)"
    final="${last}${finetune_config:+/finetune}" tests=()
    for name in ${test_sets}; do
        require "${final}/embeddings/${name}/embedding.scp" "stage 5 (loop) or 6 (finetune)"
        tests+=(--test "${name}" "${final}/embeddings/${name}/embedding.scp" "dump/${name}"/trials*)
    done
    mkdir -p "${exp}/score" # the cohort is what has a pseudo-speaker
    awk 'NR == FNR { kept[$1]; next } $1 in kept' "${last}/pseudo_labels" \
        "${final}/embeddings/${fit_set}/embedding.scp" > "${exp}/score/cohort.scp"
    run python -m espnet_ext.bin.score --out "${exp}/score" "${tests[@]}" \
        --cohort "${exp}/score/cohort.scp" "${last}/pseudo_labels" \
        --top_n "${as_norm_top}" --num_bootstrap "${num_bootstrap}" --rate_hz "${rate_hz}" --seed "${seed}" \
        --config "${train_config}" --title "The last model of iterative pseudo-labelling"
    report
fi

if stage 8 pack "config, weights and results of the last model -> exp/….zip"; then
    require "${exp}/score/results.json" "stage 7 (score)"
    last="$(last_round)"
    final="${last}${finetune_config:+/finetune}/model"
    run python -m espnet_ext.bin.pack --exp "${final}" --model_file "${final}/${inference_model}" \
        --scores "${exp}/score" --tag "$(basename "${exp}")" --out "${exp}.zip"
fi
