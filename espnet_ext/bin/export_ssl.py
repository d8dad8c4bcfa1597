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
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.inference.ssl import load_encoder
    from espnet_ext.ssl.hugging_face import parameters_of, write_folder

    encoder, conf = load_encoder(args.exp, args.model_file)
    write_folder(encoder, conf, args.out)
    print(f"{args.out}: {parameters_of(encoder) / 1e6:.2f} M weights, layers 0 to {encoder.num_layers - 1}")


if __name__ == "__main__":
    sys.exit(main())
