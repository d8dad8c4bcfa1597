"""``mini_pr``: phoneme recognition by a linear layer on frozen layers, as SUPERB's PR, much smaller.

The head: a learned softmax mix of the standardised layers (arXiv 2105.01051), one linear layer, CTC; greedy decoding.
Not comparable with SUPERB's figures: other data, phones, head, steps.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import editdistance
import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.inference.align import pronunciations
from espnet_ext.inference.rank_study import LogMelFloor
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md
from espnet_ext.ssl.features import LogMel
from espnet_ext.train.rank_list import RATE_HZ, RankList
from espnet_ext.upstream.layers import weighted_sum

log = logging.getLogger(__name__)
_MAX_S = 60.0  # in one piece: a transcript belongs to whole utterances


@dataclass(frozen=True)
class Recipe:
    """How a head is trained: AdamW without decay, a one-cycle rate whose highest value is chosen on the dev set."""

    steps: int = 300
    batch_utterances: int = 8
    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    batch_s: float = 60.0


class StackedLogMel(LogMelFloor):
    """The floor with everything it could see: both 10 ms frames of every 20 ms, 160 log-mel energies."""

    name = "log-mel"

    def identity(self) -> str:
        """Changes with what the features are."""
        return "stacked logmel 1"

    def samples_for(self, num_frames: int) -> int:
        """Return the samples of ``num_frames``: the second of a pair begins 160 samples later."""
        return 320 * (num_frames - 1) + 560

    def hidden_states(self, wav: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (1, batch, frames, 160) and lengths (batch,) of waveforms (batch, samples)."""
        features = LogMel()([row[:number] for row, number in zip(wav.cpu().numpy(), lengths.tolist(), strict=True)])
        pairs = [torch.from_numpy(frames[: len(frames) // 2 * 2].reshape(-1, 160)) for (frames,) in features]
        return pad_sequence(pairs, True)[None].to(wav.device), torch.tensor([len(x) for x in pairs], device=wav.device)


class Head(torch.nn.Module):
    """Mix and linear layer. mean, deviation: (layers, 1, size), of the training frames. Output 0 is CTC's blank."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, num_phones: int):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.weights = torch.nn.Parameter(torch.zeros(len(mean)))
        self.linear = torch.nn.Linear(mean.size(-1), 1 + num_phones)

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, frames, 1 + phones) of layers (layers, batch, frames, size)."""
        mixed = weighted_sum((layers - self.mean[:, None]) / self.deviation[:, None], self.weights)
        return self.linear(mixed)


class Utterances:
    """Whole utterances of a data directory, evenly spread, and the phones that are said, without word bounds."""

    def __init__(self, data: DataDir, number: int, skip_broken: bool = False):
        self.list = RankList(data, data.path.name, None, number, max_s=None, skip_broken=skip_broken)
        for utt, samples in list(self.list.lengths.items()):
            if samples > _MAX_S * RATE_HZ:
                why = f"{samples / RATE_HZ:.0f} s are longer than {_MAX_S:g} s; cut it where its transcript can be cut"
                self.list.leave_out(utt, UserError(why))
        said = pronunciations(data)
        self.phones = {utt: [phone for word in said[utt] for phone in word] for utt in self.list.lengths}


@torch.no_grad()
def encode(encoder: torch.nn.Module, utterances: Utterances, device: str, batch_s: float):
    """Yield (utterance, layers (layers, frames, size)) of all; errors name utterances that make an encoder diverge."""
    utterances.list.min_samples = encoder.samples_for(1)
    for utts, wav, lengths in utterances.list.batches(batch_s):
        states, frames = encoder.hidden_states(wav.to(device), lengths.to(device))
        for row, (utt, count) in enumerate(zip(utts, frames.tolist(), strict=True)):
            layers = torch.stack([layer[row, :count].float() for layer in states])
            if not torch.isfinite(layers).all():
                raise UserError(f"utterance {utt}: a layer holds NaN or infinity: the encoder diverged")
            yield utt, layers


def train_head(
    frames: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    num_phones: int,
    recipe: Recipe,
    rate: float,
    seed: int,
) -> Head:
    """Return a head for layers (layers, T, size) of utterances and their phones (N,) from 1."""
    random = torch.Generator().manual_seed(seed)
    total = sum(one.size(1) for one in frames)
    mean = sum(one.float().sum(dim=1, keepdim=True) for one in frames) / total
    square = sum((one.float() - mean).square().sum(dim=1, keepdim=True) for one in frames) / total
    head = Head(mean, square.sqrt().clamp(min=1e-5), num_phones).to(frames[0].device)
    bound = head.linear.in_features**-0.5
    with torch.no_grad():
        for parameter in head.linear.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=random) - 1) * bound)
    optimiser = torch.optim.AdamW(head.parameters(), rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=recipe.steps, pct_start=0.1)
    order: list[int] = []
    for _ in range(recipe.steps):
        while len(order) < recipe.batch_utterances:
            order += torch.randperm(len(frames), generator=random).tolist()
        batch, order = order[: recipe.batch_utterances], order[recipe.batch_utterances :]
        lengths = torch.tensor([frames[k].size(1) for k in batch])
        layers = pad_sequence([frames[k].float().transpose(0, 1) for k in batch], True).permute(2, 0, 1, 3)
        log_probs = head(layers).log_softmax(dim=-1).transpose(0, 1)
        said = torch.cat([targets[k] for k in batch])
        sizes = torch.tensor([len(targets[k]) for k in batch])
        # An utterance with more phones than frames has no path; it says nothing, and must not make all of it infinite.
        loss = F.ctc_loss(log_probs, said, lengths, sizes, zero_infinity=True)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return head.eval()


def greedy(logits: torch.Tensor) -> list[int]:
    """Return the phones (from 1) of logits (T, 1 + phones): the best of each frame, repeats merged, blanks dropped."""
    best = logits.argmax(dim=-1)
    return best[torch.diff(best, prepend=best.new_tensor([-1])).bool() & (best > 0)].tolist()


@torch.no_grad()
def error_rates(
    heads: Sequence[Head],
    encoder: torch.nn.Module,
    utterances: Utterances,
    numbers: Mapping,
    device: str,
    recipe: Recipe,
) -> list[float]:
    """Return every head's PER in %: substitutions, deletions and insertions over phones said, one pass over the audio.

    A phone that was not trained on is always wrong.
    """
    wrong, total = np.zeros(len(heads)), 0
    for utt, layers in encode(encoder, utterances, device, recipe.batch_s):
        said = [numbers.get(phone, -1) for phone in utterances.phones[utt]]
        total += len(said)
        for place, head in enumerate(heads):
            wrong[place] += editdistance.eval(said, greedy(head(layers[:, None])[0]))
    return (100 * wrong / total).tolist()


def recognise(
    name: str,
    encoder: torch.nn.Module,
    train: Utterances,
    dev: Utterances,
    test: Utterances,
    recipe: Recipe,
    device: str = "cpu",
) -> dict:
    """Train heads on one encoder; return ``{"system", "layers", "size", "rate", "dev", "per": [per seed], "mix"}``.

    The rate is chosen by the dev PER of the first seed. mix: share of every layer, of the first seed.
    """
    known = sorted({phone for phones in train.phones.values() for phone in phones})
    numbers = {phone: place for place, phone in enumerate(known, start=1)}
    encoded = dict(encode(encoder, train, device, recipe.batch_s))
    frames = [encoded[utt].half() for utt in sorted(encoded)]
    targets = [torch.tensor([numbers[phone] for phone in train.phones[utt]]) for utt in sorted(encoded)]
    del encoded

    def heads_of(pairs):
        for rate, seed in pairs:
            log.info("%s: head with rate %g, seed %d", name, rate, seed)
            yield train_head(frames, targets, len(known), recipe, rate, seed)

    first = list(heads_of((rate, recipe.seeds[0]) for rate in recipe.learning_rates))
    on_dev = error_rates(first, encoder, dev, numbers, device, recipe)
    best = int(np.argmin(on_dev))
    rate = recipe.learning_rates[best]
    heads = [first[best], *heads_of((rate, seed) for seed in recipe.seeds[1:])]
    return {
        "system": name,
        "layers": frames[0].size(0),
        "size": frames[0].size(2),
        "rate": rate,
        "dev": on_dev,
        "per": error_rates(heads, encoder, test, numbers, device, recipe),
        "mix": heads[0].weights.softmax(dim=0).tolist(),
    }


def write_report(out: Path, rows: Sequence[dict], sets: Mapping[str, Utterances], recipe: Recipe, info: Mapping) -> str:
    """Write ``RESULTS.md`` and ``results.json``; return the table. rows: as ``recognise`` returns them."""
    cells, results = [["nothing said (chance)", "–", "–", "100.00", "–"]], []
    for row in rows:
        per = row["per"]
        spread = f"{min(per):.2f} to {max(per):.2f}"
        cells.append(
            [row["system"], f"{row['rate']:g}", f"{min(row['dev']):.2f}", f"{sum(per) / len(per):.2f}", spread]
        )
        where = {"set": sets["test"].list.name, "system": row["system"]}
        results += [
            Result("mini_pr_per", value, unit="%", where=where | {"seed": str(seed)})
            for value, seed in zip(per, recipe.seeds, strict=True)
        ]
    table = markdown_table(["system", "rate", "dev PER %", "test PER %", "seeds"], cells)
    mixes = "\n".join(
        f"- {row['system']}: {row['layers']} layer(s) of {row['size']}, shares "
        + " ".join(f"{share:.2f}" for share in row["mix"])
        for row in rows
    )
    notes = (
        f"(S + D + I) / N, greedy; the mean of {len(recipe.seeds)} seeds. Heads: {recipe.steps} steps of "
        f"{recipe.batch_utterances} utterances; trained on {len(sets['train'].list)} utterances, scored on "
        f"{len(sets['test'].list)}. The rate was chosen on the dev set, with one seed. Not comparable with SUPERB's PR."
    )
    sections = [("Phone error rate", table), ("What this is", f"{notes}\n\n{mixes}")]
    write_results_md(out / "RESULTS.md", "mini_pr", sections, info)
    write_results_json(out / "results.json", results, info)
    return table
