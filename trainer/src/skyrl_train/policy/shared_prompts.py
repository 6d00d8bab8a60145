"""Sequences laid out so that a prompt is computed once for all of its responses, and padding hardly at all.

A packed row holds trees: a prompt, then its responses one after the other. A response token sees its prompt and what
comes before it in its own response; its position is that of the plain layout. So a causal model with full attention
gives every token the hidden state that it has alone, and the gradient is the same: that of the prompt is the sum over
its responses. Tokens whose hidden state predicts nothing, the last of each response, are left out.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

LARGEST_MASK = 2**26
"""Pairs of a layout, each a number of the mask that attention reads: 256 MiB in float32. Beyond it a batch is laid out
plainly, where no mask of pairs exists."""

PADDING = -1
"""The piece of a column that holds nothing."""

TREES_OF_A_ROW = (1, 2, 3, 4, 6, 8)
"""On average. With more of them rows are of more equal widths, and have more pairs of tokens."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive tokens of one sequence in a packed row: a prompt, or a response."""

    sequence: int
    start: int  # in the sequence, and so the position of its first token
    length: int
    parent: int  # the piece of its prompt; its own number if it is one


@dataclass(frozen=True, kw_only=True)
class PackedSequences:
    """R packed rows of W columns, and where the state that predicts each response token is found."""

    input_ids: Tensor  # int64 [R, W]
    position_ids: Tensor  # int64 [R, W]
    visible: Tensor  # bool [R, 1, W, W]: which columns (last) a column sees
    predictors: Tensor  # int64 [B, T], into the R * W columns; any column where a response has no such token


@dataclass(frozen=True)
class Shape:
    """What a forward pass computes: its tokens, and the pairs of tokens in attention, padding included."""

    tokens: int
    pairs: int

    def cost(self, pairs_of_a_token: float) -> float:
        """Multiplications, in those of one pair."""
        return pairs_of_a_token * self.tokens + self.pairs


def pairs_of_a_token(model: PreTrainedModel) -> float:
    """How many pairs in attention cost as much as a token in the weights of the layers. The model is whole."""
    config = model.config.get_text_config()
    embedding = sum(parameter.numel() for parameter in model.get_input_embeddings().parameters())
    weights = sum(parameter.numel() for parameter in model.base_model.parameters()) - embedding
    # A pair takes one multiplication for each number of a query and one for each number of a value, in every layer.
    return float(weights / (2 * config.hidden_size * config.num_hidden_layers))


def can_share_prompts(model: PreTrainedModel) -> bool:
    """Whether the model computes packed rows as it does plain ones: asked of its configuration, then tried."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        windowed = getattr(config, "sliding_window", None) is not None
    else:
        windowed = any(kind != "full_attention" for kind in kinds)
    if windowed or model.config._attn_implementation != "sdpa":
        return False
    try:
        return _agrees(model)
    except (TypeError, ValueError, RuntimeError):  # it takes no positions, or no mask of this form
        return False


@torch.no_grad()
def _agrees(model: PreTrainedModel) -> bool:
    ids = torch.arange(16, device=model.device).reshape(2, 8).remainder(model.config.get_text_config().vocab_size)
    ids[1, :4] = ids[0, :4]
    starts, lengths = torch.tensor([4, 4]), torch.tensor([8, 8])
    packed = SharedPrompts(ids, lengths, starts, 4, 1.0).packed()
    expected = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, 3:7]
    difference = (hidden_states(model, packed)[packed.predictors] - expected).abs().max()
    # Half of the digits: rounding is far below, and a model that does not heed the layout far above.
    return bool(difference <= torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max())


class SharedPrompts:
    """A layout of a batch of sequences, worked out from their token ids and lengths."""

    def __init__(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        response_start: Tensor,
        num_tokens: int,
        pairs_of_a_token: float,
        most: int | None = None,
    ) -> None:
        """The number of rows is the cheapest of a few.

        Args:
            input_ids: int64 [B, S], right padded.
            lengths: int64 [B], of prompt and response.
            response_start: int64 [B], at least 1.
            num_tokens: T, the longest response, at least 1.
            pairs_of_a_token: what a token costs, in pairs of tokens in attention.
            most: responses of a tree; more of one prompt make several trees. None has no bound.
        """
        self._most = most or len(lengths)
        self._input_ids = input_ids
        self._shape = (len(lengths), num_tokens)
        self._starts = response_start.tolist()
        self._ends = lengths.tolist()
        self._trees = self._grown()
        widths = [sum(piece.length for piece in tree) for tree in self._trees]
        counts = {-(-len(widths) // trees) for trees in TREES_OF_A_ROW}
        layouts = [_dealt(widths, count) for count in sorted(counts, reverse=True)]
        self._rows, self.shape = min(layouts, key=lambda layout: layout[1].cost(pairs_of_a_token))
        self._width = self.shape.tokens // len(self._rows)

    def _grown(self) -> list[list[Piece]]:
        rows = self._input_ids.cpu().numpy()
        members: dict[bytes, list[int]] = {}
        for sequence, start in enumerate(self._starts):
            members.setdefault(rows[sequence, :start].tobytes(), []).append(sequence)
        self.largest_group = max(map(len, members.values()))
        trees, number = [], 0
        for sequences in (
            group[i : i + self._most] for group in members.values() for i in range(0, len(group), self._most)
        ):
            first = sequences[0]
            tree = [Piece(sequence=first, start=0, length=self._starts[first], parent=number)]
            for sequence in sequences:
                start = self._starts[sequence]
                length = max(self._ends[sequence] - start - 1, 0)
                tree.append(Piece(sequence=sequence, start=start, length=length, parent=number))
            number += len(tree)
            trees.append(tree)
        return trees

    def packed(self) -> PackedSequences:
        """The tensors, on the device of the token ids."""
        tables = np.zeros((4, len(self._rows) * self._width), dtype=np.int64)
        source, position, piece_of, parent_of = tables
        piece_of[:], parent_of[:] = PADDING, PADDING
        predictors = np.zeros(self._shape, dtype=np.int64)
        stride = self._input_ids.shape[1]
        for row, trees in enumerate(self._rows):
            column = row * self._width
            for tree in trees:
                last_of_prompt = column + self._trees[tree][0].length - 1
                for offset, piece in enumerate(self._trees[tree]):
                    columns = slice(column, column + piece.length)
                    position[columns] = np.arange(piece.start, piece.start + piece.length)
                    source[columns] = piece.sequence * stride + position[columns]
                    piece_of[columns], parent_of[columns] = piece.parent + offset, piece.parent
                    if offset:
                        predictors[piece.sequence, 0] = last_of_prompt
                        predictors[piece.sequence, 1 : 1 + piece.length] = np.arange(columns.start, columns.stop)
                    column += piece.length
        return self._tensors(tables.reshape(4, len(self._rows), self._width), predictors)

    def _tensors(self, tables: NDArray[np.int64], predictors: NDArray[np.int64]) -> PackedSequences:
        device = self._input_ids.device
        source, position, piece, parent = torch.from_numpy(tables).to(device)
        seen = piece[:, None, :]
        # Columns of padding see one another: attention to nothing at all would be no number.
        visible = (seen == piece[:, :, None]) | (seen == parent[:, :, None])
        visible &= position[:, None, :] <= position[:, :, None]
        return PackedSequences(
            input_ids=self._input_ids.flatten()[source],
            position_ids=position,
            visible=visible[:, None],
            predictors=torch.from_numpy(predictors).to(device),
        )


def plain_shape(input_ids: Tensor) -> Shape:
    """Of the forward pass with one row for each sequence."""
    count, width = input_ids.shape
    return Shape(count * width, count * width**2)


def cheapest(
    input_ids: Tensor, lengths: Tensor, response_start: Tensor, num_tokens: int, pairs_of_a_token: float
) -> SharedPrompts | None:
    """The cheapest of the layouts with all, half, a quarter, ... of the largest group in a tree; arguments as above.

    None where one row for each sequence costs less. Narrow rows have fewer pairs of tokens that do not see each other.
    """
    best, lowest = None, plain_shape(input_ids).cost(pairs_of_a_token)
    most: int | None = None
    while most is None or most > 1:
        layout = SharedPrompts(input_ids, lengths, response_start, num_tokens, pairs_of_a_token, most)
        cost = layout.shape.cost(pairs_of_a_token)
        if cost < lowest and layout.shape.pairs <= LARGEST_MASK:
            best, lowest = layout, cost
        most = (most or layout.largest_group) // 2
    return best


def _dealt(widths: Sequence[int], count: int) -> tuple[list[list[int]], Shape]:
    """Trees into this many rows, the widest first, each into the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, row) for row in range(count)]  # a heap
    for tree in sorted(range(len(widths)), key=lambda tree: -widths[tree]):
        width, row = heapq.heappop(filled)
        rows[row].append(tree)
        heapq.heappush(filled, (width + widths[tree], row))
    widest = max(filled)[0]
    return rows, Shape(count * widest, count * widest**2)


def hidden_states(model: PreTrainedModel, packed: PackedSequences) -> Tensor:
    """float [R * W, H], of every column."""
    dtype = next(model.parameters()).dtype
    # The same mask for every layer, as numbers: from truth values each layer would make them anew.
    hidden = torch.finfo(dtype).min
    mask = torch.zeros(packed.visible.shape, dtype=dtype, device=packed.visible.device)
    output = model.base_model(
        input_ids=packed.input_ids,
        attention_mask=mask.masked_fill_(~packed.visible, hidden),
        position_ids=packed.position_ids,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return states.flatten(0, 1)
