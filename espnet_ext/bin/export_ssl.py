"""Write the encoder of a pre-training as a Hugging Face HubertModel folder, which AutoModel and hf:FOLDER load.

espnet_ext export_ssl --exp exp/ssl_train_hubert/it2/model --out exp/ssl_train_hubert/hf
"""

import argparse
import sys

from espnet_ext.errors import cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp", required=True, help="folder of a training of task ssl")
    parser.add_argument("--model_file", default="valid.loss_m.best.pth", help="weights in that folder")
    parser.add_argument(
        "--out", required=True, help="folder for config.json, preprocessor_config.json, model.safetensors"
    )
    parser.add_argument("--s3prl", metavar="FILE", help="write s3prl's file too, for s3prl:hubert_local:FILE")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.inference.ssl import load_pretraining
    from espnet_ext.ssl.geometry import RATE_HZ
    from espnet_ext.ssl.hugging_face import parameters_of, write_folder
    from espnet_ext.ssl.s3prl_format import write_s3prl

    model, conf = load_pretraining(args.exp, args.model_file)
    write_folder(model.encoder, conf, args.out)
    print(f"{args.out}: {parameters_of(model.encoder) / 1e6:.2f} M weights, layers 0 to {model.encoder.num_layers - 1}")
    if args.s3prl:  # last: it cannot express every encoder
        write_s3prl(model, conf, RATE_HZ / model.encoder.geometry.hop, args.s3prl)


if __name__ == "__main__":
    sys.exit(main())
