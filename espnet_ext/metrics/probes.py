"""The linear probes of an encoder: what they are called, what they need, and how commands let choose among them."""

import argparse
from typing import NamedTuple


class Probe(NamedTuple):
    """What a probe needs in the training and in the test directory (tables), and what it measures, in per cent.

    heading: the same in a word. is_error: of what is measured lower is better; scores are what it lacks to 100.
    """

    in_train: tuple[str, ...]
    in_test: tuple[str, ...]
    measure: str
    heading: str
    is_error: bool = False

    @property
    def score(self) -> str:
        """What the scores are called; higher is better."""
        return f"100 - {self.measure}" if self.is_error else self.measure

    def measured(self, score: float) -> float:
        """What was measured, from its score."""
        return 100 - score if self.is_error else score


PROBES = {
    "phone": Probe(("utt2phones",), ("utt2phones",), "phone accuracy (%)", "phones"),
    "speaker": Probe(("utt2spk",), (), "speaker accuracy (%)", "speakers"),
    "eer": Probe((), ("trials",), "EER (%)", "EER", is_error=True),
}


def add_probes(parser: argparse.ArgumentParser) -> None:
    """Give a parser the choice of linear probes."""
    parser.add_argument("--probes", nargs="+", choices=PROBES, help="phone: accuracy of frames; speaker: accuracy on "
        "held-out utterances of --train; eer: zero-shot, trials of the test data (default: all that there are labels "
        "for)")  # fmt: skip
