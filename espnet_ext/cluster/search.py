"""The nearest centroid of every vector: searched in low precision, decided in float64 where that is unsure.

A product of matrices in bfloat16 (a CPU with AMX) or TF32 (a GPU) is several times faster than one in float32, and its
rounding is known: a row whose two nearest centroids lie further apart than twice that bound is decided; of the others,
the few candidates within the bound are compared in float64. So the answer is that of float64 throughout, on every
device, for every block size; equal distances go to the lower number.
"""

import torch

from espnet_ext.cluster.vectors import low_precision, rounding_bound

# Scores held at once: a block should stay near the processor's cache; a GPU wants larger ones.
BLOCK_SCORES = {"cpu": 1_000_000, "cuda": 64_000_000}
LOW_PRECISION = 2.0**-8  # two roundings to 8 significant bits; TF32 and float32 are better than that
EXTRA = 32  # columns of the product beside the vectors' own: the tiles of AMX are 32 wide


class Rows:
    """Vectors ``(N, D)`` laid out for many searches: minus a shift, with the columns that meet ``|c|^2 / 2``."""

    def __init__(self, wide: torch.Tensor, length: torch.Tensor, shift: torch.Tensor):
        self.wide, self.length, self.shift = wide, length, shift

    @classmethod
    def of(cls, x: torch.Tensor, shift: torch.Tensor, memory: torch.Tensor | None = None) -> "Rows":
        """Lay out ``x``; ``memory`` (at least N, D + EXTRA) of ones is used again where it is given."""
        wide = x.new_ones(len(x), x.shape[1] + EXTRA) if memory is None else memory[: len(x)]
        rows = cls(wide, wide[:, 0], shift)
        torch.sub(x, shift, out=rows.vectors)
        rows.length = torch.linalg.vector_norm(rows.vectors, dim=1)
        return rows

    def __len__(self) -> int:
        return len(self.wide)

    def __getitem__(self, place: slice | torch.Tensor) -> "Rows":
        return Rows(self.wide[place], self.length[place], self.shift)

    @property
    def vectors(self) -> torch.Tensor:
        """The vectors minus the shift, a view."""
        return self.wide[:, :-EXTRA]


class Search:
    """Finds nearest centroids among ``centres (k, D)`` float32.

    The score of a vector x and a centroid c is ``|c|^2 / 2 - x . c``, both less ``shift`` (default: the centroids'
    mean) so that rounding is small. ``|c|^2 / 2`` is part of the product: three columns, which hold it to 24 bits.
    """

    def __init__(self, centres: torch.Tensor, shift: torch.Tensor | None = None):
        self.k, self.dim = centres.shape
        self.shift = centres.double().mean(0).float() if shift is None else shift
        self.centres = centres
        shifted = centres - self.shift
        self.reach = float(shifted.square().sum(1).max().sqrt())
        # Groups whose smallest score is taken first: about as many as members, for vectors of processors a multiple.
        self.groups = 32 * max(1, round(self.k**0.5 / 32)) if self.k >= 128 else 0
        self.members = -(-self.k // self.groups) if self.groups else 1
        self.width = self.groups * self.members or self.k
        table = centres.new_zeros(self.width, self.dim + EXTRA)
        table[: self.k, : self.dim] = -shifted
        rest = centres.new_full((self.width,), 1e30)  # a place without a centroid is far away
        rest[: self.k] = shifted.square().sum(1) / 2
        for column in range(self.dim, self.dim + 3):
            table[:, column] = rest.bfloat16().float()
            rest = rest - table[:, column]
        self.table = table.T
        # Of the product, of the squares, of the shift of x: the last two in float32.
        self.bound = LOW_PRECISION + 2 * rounding_bound(self.dim)

    def nearest(self, x: torch.Tensor | Rows, which: torch.Tensor | None = None, slack: float = 0.0) -> torch.Tensor:
        """Numbers of the nearest centroids of ``x (N, D)`` float32, or of its rows ``which``; int64.

        With ``slack`` the unsure rows of a block are not decided exactly where all of them together could not change
        the block's sum of squared distances by that share; what they do change is far less, since roundings cancel.
        """
        total = len(x) if which is None else len(which)
        labels = torch.empty(total, dtype=torch.int64, device=self.centres.device)
        size = max(64, BLOCK_SCORES.get(self.centres.device.type, BLOCK_SCORES["cpu"]) // self.width)
        size = min(size, total)
        # Made once: fresh memory for every block would cost as much as half the product.
        scores = self.centres.new_empty(size, self.width)
        ready = isinstance(x, Rows)
        memory = None if ready else self.centres.new_ones(size, self.dim + EXTRA)
        centres = self.centres - self.shift if ready else self.centres
        with low_precision(), torch.no_grad():
            for first in range(0, total, size):
                place = slice(first, min(first + size, total))
                block = x[place] if which is None else x[which[place]]
                rows = block if ready else Rows.of(block, self.shift, memory)
                pair = (block.vectors if ready else block, centres)
                labels[place] = self.nearest_in(rows, pair, scores[: len(rows)], slack)
        return labels

    def nearest_in(self, rows: Rows, exact: tuple, scores: torch.Tensor, slack: float) -> torch.Tensor:
        """Nearest centroids of one block; ``exact`` are vectors and centroids to compare, ``scores`` memory to use."""
        torch.mm(rows.wide, self.table, out=scores)
        value, labels, second = self.two_smallest(scores)
        error = self.bound * self.reach * (rows.length + self.reach)
        limit = value + 2 * error
        unsure = second <= limit
        if slack:
            squared = (rows.length.square() + 2 * value).clamp_(min=0)
            if bool((4 * error * unsure).sum() <= slack * squared.sum()):
                return labels
        unsure = unsure.nonzero()[:, 0]
        for part in unsure.split(max(1, 4_000_000 // self.width)):
            labels[part] = self.decide(exact[0][part], exact[1], scores[part] <= limit[part, None])
        return labels

    def two_smallest(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Smallest score of every row, where it is, and the second smallest one."""
        if not self.groups:
            value, labels = scores.min(1)
            second = scores.scatter(1, labels[:, None], torch.inf).amin(1)
            return value, labels, second
        # Centroid j * groups + g is member j of group g: least of every group, best group, best member.
        grouped = scores.view(len(scores), self.members, self.groups)
        least = grouped.amin(1)
        value, group = least.min(1)
        members = grouped.gather(2, group[:, None, None].expand(-1, self.members, 1))[:, :, 0]
        member = members.argmin(1)
        members.scatter_(1, member[:, None], torch.inf)
        least.scatter_(1, group[:, None], torch.inf)
        second = torch.minimum(members.amin(1), least.amin(1))
        return value, member * self.groups + group, second

    def decide(self, vectors: torch.Tensor, centres: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        """Nearest among the candidates ``(rows, width)`` of every row, in float64."""
        row, number = candidate.nonzero(as_tuple=True)
        distance = torch.empty(len(row), dtype=torch.float64, device=vectors.device)
        for first in range(0, len(row), size := max(1, 2_000_000 // self.dim)):
            part = slice(first, first + size)
            distance[part] = (vectors[row[part]].double() - centres[number[part]]).square_().sum(1)
        best = distance.new_full((len(vectors),), torch.inf).scatter_reduce_(0, row, distance, "amin")
        number = number.masked_fill(distance > best[row], self.k)
        return number.new_full((len(vectors),), self.k).scatter_reduce_(0, row, number, "amin")
